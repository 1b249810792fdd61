"""Planning of a text: the plan, or the error as a value."""

from __future__ import annotations

from pathlib import Path

from svc_dist.checks.proposals.planning import planned
from svc_dist.errors import RecipeError
from svc_dist.plan.model import Plan
from tests.support.checkpoints import write_llamas, write_recipe


def test_the_plan_or_the_error(tmp_path: Path) -> None:
    text = write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path / "models")).read_text()
    assert isinstance(planned(text, "r", tmp_path), Plan)
    assert isinstance(planned(text.replace("task_arithmetic", "tsk"), "r", tmp_path), RecipeError)
