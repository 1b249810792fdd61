"""What a plan needs of disk, memory and time, beside what this machine has."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from svc_dist.checks.room import free_space, largest_unit, memory_here, scratch_bytes, slots_here, use_scratch
from svc_dist.cli.overview.columns import aligned
from svc_dist.errors import printable
from svc_dist.forecast.prediction import span
from svc_dist.forecast.this_machine import EstimateHere, estimate_here
from svc_dist.plan.model import Plan
from svc_dist.run.placement import PER_DEVICE
from svc_dist.sizes import counted, format_size
from svc_dist.storage.access import DOCUMENT, Access
from svc_dist.storage.open import open_storage

_COLUMNS = 80
_UNITS = 20_000  # a plan with more is not simulated here: that takes longer than planning


@dataclass(frozen=True)
class Need:
    """A row: what is needed of something, and what is here. ``short``: what to do where that is too little; ``note``:
    what the row is based on."""

    subject: str
    needed: str
    here: str
    short: str | None = None
    note: str | None = None


def needs(plans: Sequence[Plan], output: str | None, access: Access) -> list[Need]:
    """The rows. ``output``: where the merge would go, if that is known."""
    folder = Path() if output is None else open_storage(output, access).path
    rows = [_disk(plans, folder, output)]
    if use_scratch(plans, access, folder is None):
        rows.append(_scratch(plans))
    rows.append(_memory(plans))
    remote = folder is None or any(
        open_storage(model.location, access).path is None
        for plan in plans
        for model in plan.inputs
        if not model.location.startswith(DOCUMENT)
    )
    return [*rows, _time(plans, remote)]


def needs_lines(rows: Sequence[Need]) -> list[str]:
    """The rows as a table, and their notes below it."""
    table = aligned([("", "needed", "here"), *((row.subject, row.needed, row.here) for row in rows)])
    notes = [line for row in rows if row.note is not None for line in textwrap.wrap(row.note, _COLUMNS)]
    return [*table, *notes]


def shortages(rows: Sequence[Need]) -> Iterator[str]:
    """What is too little here, and what to do."""
    for row in rows:
        if row.short is not None:
            yield f"too little {row.subject}: {row.needed}, {row.here}; {row.short}"


def _disk(plans: Sequence[Plan], folder: Path | None, output: str | None) -> Need:
    size = sum(plan.bytes_out for plan in plans)
    needed = f"{format_size(size)} for the output"
    if folder is None:
        return Need("disk", needed, "an object storage")
    free = free_space(folder)
    where = "the working folder's disk" if output is None else printable(str(output))
    short = None if free >= size else "free space there, or name another OUTPUT"
    return Need("disk", needed, f"{format_size(free)} free in {where}", short)


def _scratch(plans: Sequence[Plan]) -> Need:
    slots = slots_here(plans[0].settings) or PER_DEVICE
    size, folder = scratch_bytes(plans, slots), Path(tempfile.gettempdir())
    free = free_space(folder)
    short = None if free >= size else "name a folder on a larger disk with --scratch, or lower --slots"
    return Need("scratch", f"up to {format_size(size)}", f"{format_size(free)} free in {folder}", short)


def _memory(plans: Sequence[Plan]) -> Need:
    size, slots = largest_unit(plans), slots_here(plans[0].settings)
    device, host = memory_here(plans)
    needed = f"{format_size(size)} for the largest unit"
    short = None if size <= max(host, device or 0) else "run the merge on a machine with more memory"
    here = [] if device is None else [f"{format_size(device)} on a GPU"]
    here.append(f"{format_size(host)} available")
    if slots is not None:
        here.append(f"{counted(slots, 'unit')} in parallel")
    return Need("memory", needed, ", ".join(here), short)


def _time(plans: Sequence[Plan], remote: bool) -> Need:
    if sum(len(plan.units) for plan in plans) > _UNITS:
        return Need("time", "", "not estimated for so many units: svc-dist plan --cluster")
    estimates: list[EstimateHere] = []
    for plan in plans:
        estimate = estimate_here(plan, remote)
        if estimate is None:
            return Need("time", "", "the rates of this device are not known: svc-dist plan --cluster")
        estimates.append(estimate)
    seconds = sum(one.prediction.seconds for one in estimates)
    last = estimates[-1]
    note = f"time estimated for {last.basis} (see measure-host)"
    return Need("time", f"about {span(seconds)}", last.machine, note=note)
