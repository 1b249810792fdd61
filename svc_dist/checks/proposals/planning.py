"""Planning of a recipe that is being written: its plans, or why there are none."""

from __future__ import annotations

from pathlib import Path

from svc_dist.errors import DamagedInputError, PlanError, RecipeError, StorageError, SvcDistError
from svc_dist.plan.documents import plan_documents
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import parse_documents
from svc_dist.storage.access import DEFAULT_ACCESS, Access


def planned(text: str, name: str, folder: Path, access: Access = DEFAULT_ACCESS) -> Plan | SvcDistError:
    """The plan of a recipe's text (of the last of several documents), or the error that ends planning."""
    try:
        return plan_documents(parse_documents(text, name, folder, access), Settings())[-1]
    except (RecipeError, PlanError, DamagedInputError, StorageError) as error:
        return error
