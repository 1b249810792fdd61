"""Old outputs of a series are removed: complete merges only, and of them only the files that svc_dist wrote."""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from svc_dist.checkpoint.weight_files import completes
from svc_dist.errors import DamagedInputError, LockedError
from svc_dist.run.session import held
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed, every_name
from svc_dist.run_folder.series.dates import Series
from svc_dist.run_folder.series.pointer import Pointer
from svc_dist.sizes import counted
from svc_dist.storage.base import IN_PARALLEL, is_inside

#: In the run folder of an output whose removal has begun: the names that are removed.
REMOVAL = "removal.json"
_LARGEST = 64 << 20
_NAMES = msgspec.json.Decoder(list[str])  # made by the thread that imports this, as msgspec needs it
_log = logging.getLogger("svc_dist")


def remove_older(series: Series, keep: int, pointer: Pointer | None) -> None:
    """Remove the complete outputs of a series but the ``keep`` newest, and never the one that ``pointer`` names.

    A removal that was killed is finished.
    """
    complete = list(series.complete())
    for date in series.dates():
        output = series.output(date)
        old = date in complete[keep:] and (pointer is None or not pointer.names(date))
        if not old and (date in complete or output.journal.storage.stat(REMOVAL) is None):
            continue
        try:
            _remove(output, series.depth)
        except LockedError:
            _log.warning(f"{output.location} is in use and stays: --keep {keep} removes it at the next start")


def _remove(output: Output, depth: int) -> None:
    with held(output):
        published = completed(output)
        names = _begun(output) if published is None else every_name(output, published)
        if not names:
            return
        output.journal.storage.put(REMOVAL, msgspec.json.encode(names))
        for name in (name for name in names if completes(name)):
            output.storage.delete(name)
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            list(pool.map(output.storage.delete, (name for name in names if not completes(name))))
        output.journal.clear()
    if output.storage.path is not None:
        _remove_empty(output.storage.path, names, depth)
    _log.info(f"removed {output.location}: {counted(len(names), 'file')}")


def _begun(output: Output) -> list[str]:
    """The names that a removal which was killed was to remove."""
    with contextlib.suppress(ValueError, DamagedInputError):
        names = _NAMES.decode(output.journal.storage.get_within(REMOVAL, _LARGEST) or b"[]")
        return [name for name in names if is_inside(name)]
    return []


def _remove_empty(folder: Path, names: list[str], depth: int) -> None:
    """Remove the folders of an output that are empty now, and those above it that belong to its date alone."""
    inner = {parent for name in names for parent in Path(name).parents if parent != Path()}
    outer = [folder, *folder.parents][:depth]
    for path in [*sorted((folder / one for one in inner), reverse=True), *outer]:
        with contextlib.suppress(OSError):  # not empty: others' files stay
            path.rmdir()
