"""Which files a finished merge consists of, and whether one is there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from svc_dist.checkpoint.weight_files import completes
from svc_dist.errors import DamagedInputError, StorageError, VerificationError, printable
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.report import LARGEST, REPORT_FILE, MergeReport, PublishedMerge, read_report
from svc_dist.storage.access import Access
from svc_dist.storage.base import IN_PARALLEL, is_inside
from svc_dist.storage.open import open_storage

OUTPUTS_FILE = "merge_outputs.json"  # in OUTPUT, of a merge with several results: all of them are complete
RECIPE_FILE = "merge_recipe.yaml"
CARD_FILE = "README.md"


class _Outputs(msgspec.Struct):
    outputs: list[str]


_OUTPUTS = msgspec.json.Decoder(_Outputs)  # made by the thread that imports this, as msgspec needs it


def own_files(plan: Plan) -> list[str]:
    """Every name that this plan puts into the output, with the folders of its results."""
    names = [f"{result.path}/{name}" if result.path else name for result in plan.results for name in result_files(plan)]
    return [*names, OUTPUTS_FILE] if plan.results[0].path else names


def result_files(plan: Plan) -> list[str]:
    """Every name that this plan puts into the folder of each result."""
    names = [plan.shard_file(number) for number in range(plan.count)]
    beside = [sidecar.name for sidecar in plan.sidecars if sidecar.name != plan.index_file]
    return [*names, *beside, CARD_FILE, RECIPE_FILE, REPORT_FILE, plan.index_file]


def recorded_settings(output: Output) -> Settings | None:
    """The settings of the run in an output, unfinished or finished; None where there is none."""
    plan = output.journal.plan()
    if plan is not None:
        return plan.settings
    published = completed(output)
    return None if published is None else published.settings


def recorded_run(output: Output) -> Plan | MergeReport | None:
    """The plan of the run in an output, or its report if it is finished; None where there is none."""
    plan = output.journal.plan()
    if plan is not None:
        return plan
    published = completed(output)
    return None if published is None else report_of(output, published)


def recorded_models(output: Output) -> tuple[PlannedModel, ...]:
    """The models of the run in an output, unfinished or finished; none where there is none."""
    run = recorded_run(output)
    return () if run is None else run.models


def report_folder(output: Output, published: PublishedMerge) -> str:
    """Where the report of a published merge is: in OUTPUT, or in the folder of its first result."""
    file = next(name for name in published.files if name.rpartition("/")[2] == REPORT_FILE)
    return f"{output.location}/{file}".rpartition("/")[0]


def report_of(output: Output, published: PublishedMerge) -> MergeReport:
    """The report of a published merge, of several results that of the first. Raises DamagedInputError, StorageError."""
    return read_report(report_folder(output, published), output.access)


def result_folders(location: str, access: Access) -> list[str]:
    """The folders of a finished merge's results inside OUTPUT, where it has several; none for a single one.

    Raises DamagedInputError where the list of them cannot be read.
    """
    data = open_storage(location, access).get_within(OUTPUTS_FILE, LARGEST)
    if data is None:
        return []
    with contextlib.suppress(ValueError, RecursionError):
        names = _OUTPUTS.decode(data).outputs
        if names and all(map(is_inside, names)):
            return names
    raise DamagedInputError(
        f"{location}/{OUTPUTS_FILE} cannot be read", "it was damaged: name the folder of one result"
    )


def completed(output: Output) -> PublishedMerge | None:
    """The finished merge in an output; None where none is finished."""
    published = recorded(output)
    if published is None:
        return None
    indexes = [name for name in published.files if completes(name)]
    return published if indexes and len(output.existing(indexes)) == len(indexes) else None


def require_shards(output: Output, plan: Plan) -> None:
    """Raise VerificationError where a shard of a complete merge is missing or has another size. Reads no data."""
    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        identities = pool.map(output.storage.stat, (shard.file for shard in plan.shards))
        for shard, identity in zip(plan.shards, identities, strict=True):
            if identity is None or identity.size != shard.size:
                what = "is missing" if identity is None else f"has {identity.size:,} bytes, not {shard.size:,}"
                raise VerificationError(
                    f"{output.location} was complete, but {shard.file} {what}",
                    "restore the file, or merge again with --restart",
                )


def own_names(output: Output, published: PublishedMerge) -> list[str]:
    """The files of a published merge that its reports account for, the index first.

    A name that a report lists as a file, but neither as a shard nor as a sidecar, is not ours to remove.
    """
    folders = dict.fromkeys(name.rpartition("/")[0] for name in published.files if is_inside(name))
    ours = {OUTPUTS_FILE}
    for folder in folders:
        names = [CARD_FILE, RECIPE_FILE, REPORT_FILE]
        with contextlib.suppress(StorageError, DamagedInputError):
            where = f"{folder}/{REPORT_FILE}" if folder else REPORT_FILE
            report = MergeReport.parse(output.storage.get_within(where, LARGEST) or b"", where)
            names += [*(shard.file for shard in report.shards), *(one.name for one in report.sidecars)]
        ours |= {f"{folder}/{name}" if folder else name for name in names}
    names = [name for name in published.files if is_inside(name) and (name in ours or completes(name))]
    return sorted(names, key=lambda name: not completes(name))


def every_name(output: Output, published: PublishedMerge) -> list[str]:
    """The files of a merge, and of those of its other documents whose models stayed: the indexes first."""
    names = own_names(output, published)
    for name, inner, its in _documents(output, published):
        names += [f"{name}/{file}" for file in own_names(inner, its)]
    return sorted(names, key=lambda name: not completes(name))


def whole_names(output: Output, published: PublishedMerge) -> list[str]:
    """``every_name`` of a merge of which nothing is missing. Raises VerificationError naming what is."""
    names = every_name(output, published)
    listed = list(published.files)
    for name, _, its in _documents(output, published):
        listed += [f"{name}/{file}" for file in its.files]
    known, there = set(names), set(output.existing(names))
    lost = next((name for name in (*listed, *names) if name not in known or name not in there), None)
    if lost is not None:
        raise VerificationError(
            f"{output.location} is not whole: {printable(lost)} is missing, or the report that describes it",
            f"see svc-dist verify {output.location}; --restart merges again",
        )
    return names


def _documents(output: Output, published: PublishedMerge) -> Iterator[tuple[str, Output, PublishedMerge]]:
    """The folders of those of its other documents whose models stayed beside a merge, and what was published there."""
    for document in report_of(output, published).documents:
        name = document.get("name")
        if (
            isinstance(name, str)
            and is_inside(name)
            and not any(file.startswith(f"{name}/") for file in published.files)
        ):
            inner = Output(f"{output.location}/{name}", output.access)
            its = completed(inner)
            if its is not None:
                yield name, inner, its


def recorded(output: Output) -> PublishedMerge | None:
    """The merge that was published in an output, even where some of its files have gone since."""
    names = output.storage.names()
    file = OUTPUTS_FILE if OUTPUTS_FILE in names else REPORT_FILE
    if file not in names:
        return None
    with contextlib.suppress(StorageError, DamagedInputError):
        return PublishedMerge.parse(output.storage.get_within(file, LARGEST) or b"", f"{output.location}/{file}")
    return None
