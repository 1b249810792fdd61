"""What a run left that did not end, and how it is removed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from svc_dist.checkpoint.weight_files import completes
from svc_dist.errors import DamagedInputError, StorageError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.documents.records import DocumentRecord, inner_outputs, pending, recorded_documents
from svc_dist.run_folder.journal import RUN_FOLDER
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import own_files
from svc_dist.run_folder.receipt import Receipt
from svc_dist.sizes import format_size


@dataclass(frozen=True)
class Remains:
    """What a run that did not end left.

    ``files``: finished parts of the model, under their names; ``documents``: how many, if
    the run is of several.
    """

    output: str
    on_disk: bool
    files: list[str]
    units: int
    units_done: int
    bytes_done: int
    plan: Plan | None
    documents: int = 0

    def text(self) -> str:
        """What would be removed, for a person who decides about it."""
        lines = [f"{self.output}: a merge that was not finished"]
        if self.documents:
            lines[0] += f" of {self.documents} documents"
        if self.plan is not None or self.documents:
            size = format_size(self.bytes_done)
            lines.append(f"  {self.units_done} of {self.units} units are done, {size} written")
        else:
            lines.append("  its plan is gone or damaged: only shards that it finished and recorded can be removed")
        lines += [f"  remove {self.output}/{name}" for name in self.files]
        where = "files" if self.on_disk else "uploads or pieces"
        return "\n".join([*lines, f"  remove its partial {where} and {self.output}/{RUN_FOLDER}"])


def remains(output: Output) -> Remains:
    """Look at what a run left that did not end."""
    with contextlib.suppress(DamagedInputError):
        records = recorded_documents(output)
        if records is not None:
            return _remains_of_documents(output, records)
    return _remains(output)


def _remains_of_documents(whole: Output, records: Sequence[DocumentRecord]) -> Remains:
    left = pending(whole, records)
    units_done = sum(record.units for record in records if record not in left)
    bytes_done = sum(record.bytes_out for record in records if record not in left)
    files: list[str] = []
    for record in left:
        one = _remains(record.output(whole))
        units_done, bytes_done = units_done + one.units_done, bytes_done + one.bytes_done
        if record.result:
            files += one.files if record.name is None else [f"{record.name}/{name}" for name in one.files]
    on_disk, units = whole.storage.path is not None, sum(record.units for record in records)
    return Remains(whole.location, on_disk, files, units, units_done, bytes_done, None, len(records))


def _remains(output: Output) -> Remains:
    plan = None
    with contextlib.suppress(DamagedInputError):  # a plan that cannot be read: what it made cannot be told
        plan = output.journal.plan()
    if plan is None:
        return Remains(output.location, output.storage.path is not None, _finished(output), 0, 0, 0, None)
    done: dict[str, Receipt] = {}
    with contextlib.suppress(DamagedInputError, StorageError):  # receipts that cannot be listed: no unit is done
        done = output.journal.receipts(plan)
    return Remains(
        output=output.location,
        on_disk=output.storage.path is not None,
        files=output.existing(sorted(own_files(plan), key=lambda name: not completes(name))),
        units=len(plan.units),
        units_done=len(done),
        bytes_done=sum(plan.unit[unit].bytes_out for unit in done),
        plan=plan,
    )


def _finished(output: Output) -> list[str]:
    """The finished shards of a run without its plan: those that are still as the run recorded them."""
    with contextlib.suppress(DamagedInputError, StorageError):
        identities = map(output.storage.stat, output.journal.recorded_shards())
        return [one.name for one in identities if one is not None and output.journal.is_recorded(one)]
    return []


def remove_run(output: Output) -> None:
    """Remove a run's uploads, then its run folder with all else that is partial. The caller holds the lock."""
    records: Sequence[DocumentRecord] = ()
    with contextlib.suppress(DamagedInputError):
        records = recorded_documents(output) or ()
    for inner in inner_outputs(output):
        inner.drop_partial()
    for result in (record.output(output) for record in records if record.result and record.name is not None):
        result.drop_partial()
        result.journal.clear()
    output.drop_partial()
    output.journal.clear()
