"""Which files a finished merge consists of, and whether one is there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from svc_dist.checkpoint.checkpoint import INDEX_FILE
from svc_dist.checkpoint.tokenizer import TEMPLATE_FILE, is_tokenizer_file
from svc_dist.errors import DamagedInputError, StorageError
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.report import REPORT_FILE, PublishedMerge
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage

OUTPUTS_FILE = "merge_outputs.json"  # in OUTPUT, of a merge with several results: all of them are complete


RECIPE_FILE = "merge_recipe.yaml"


CARD_FILE = "README.md"


_COMPANION_ENDINGS = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".spm", ".vocab")


_COMPANION_NAMES = ("LICENSE", "NOTICE", "USE_POLICY")


def own_files(plan: Plan, access: Access) -> list[str]:
    """Every name that this plan puts into the output, those of several results with their folders."""
    return _in_folders(plan, _result_files(plan, companions(plan, access)))


def _result_files(plan: Plan, beside: Iterable[str]) -> list[str]:
    """Every name that this plan puts into the folder of a result; ``beside``: the companions."""
    names = [plan.shard_file(number) for number in range(plan.count)]
    return [*names, *beside, CARD_FILE, RECIPE_FILE, REPORT_FILE, INDEX_FILE]


def _in_folders(plan: Plan, names: Sequence[str]) -> list[str]:
    own = [f"{result.path}/{name}" if result.path else name for result in plan.results for name in names]
    return [*own, OUTPUTS_FILE] if plan.results[0].path else own


def recorded_settings(output: Output) -> Settings | None:
    """The settings of the run in an output, unfinished or finished; None where there is none."""
    plan = output.journal.plan()
    if plan is not None:
        return plan.settings
    published = completed(output)
    return None if published is None else published.settings


def completed(output: Output) -> PublishedMerge | None:
    """The finished merge in an output; None where none is finished."""
    published = recorded(output)
    if published is None:
        return None
    indexes = [name for name in published.files if name.rpartition("/")[2] == INDEX_FILE]
    return published if indexes and len(output.there(indexes)) == len(indexes) else None


def recorded(output: Output) -> PublishedMerge | None:
    """The merge that was published in an output, even where some of its files have gone since."""
    names = output.storage.names()
    file = OUTPUTS_FILE if OUTPUTS_FILE in names else REPORT_FILE
    if file not in names:
        return None
    with contextlib.suppress(StorageError, DamagedInputError):
        return PublishedMerge.parse(output.storage.read(file), f"{output.location}/{file}")
    return None


def companions(plan: Plan, access: Access) -> dict[str, int]:
    """The files that a loader needs beside the weights, and the model that each comes from (0: the base).

    Config, tokenizer, chat template, code, licence.
    """
    own = {REPORT_FILE, RECIPE_FILE, CARD_FILE}
    files: dict[str, int] = {}
    for model, of_tokenizer in ((plan.companions.config, False), (plan.companions.tokenizer, True)):
        for name in open_storage(plan.models[model].location, access).names():
            if (
                (name.endswith(_COMPANION_ENDINGS) or name.split(".")[0] in _COMPANION_NAMES)
                and not name.endswith(".index.json")
                and not name.startswith(".")
                and name not in own
                and is_tokenizer_file(name) == of_tokenizer
            ):
                files[name] = model
    if plan.companions.chat_template is not None:
        files[TEMPLATE_FILE] = plan.companions.tokenizer
    return files
