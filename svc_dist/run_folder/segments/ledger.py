"""The ledger of a run's driver: the ranges that are written, and the copies of their receipts in segments."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from svc_dist.errors import StorageError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.journal import Journal
from svc_dist.run_folder.receipt import Receipt
from svc_dist.sizes import counted
from svc_dist.storage.writing.base import Sink

#: Receipts of a segment. A start reads those that are in none yet one by one.
SEGMENT = 1000
_DEADLINE = 30.0  # seconds for a segment: it is only a copy, and the end of a run waits for it
_log = logging.getLogger("svc_dist")


class Ledger:
    """Knows every finished unit of a run, and copies receipts into segments in the background.

    The caller holds the lock of the output. ``with`` ends with the last segment written, or abandoned.
    """

    def __init__(self, journal: Journal, plan: Plan) -> None:
        self.journal, self._plan = journal, plan
        self._receipts: list[dict[str, Receipt]] = [{} for _ in range(plan.count)]  # in short, by shard
        self._copied: dict[str, set[str]] = {}  # the units of each segment
        self._next = 1  # number of a segment
        self._pending: dict[str, bytes] = {}
        self._writing: Future[None] | None = None  # the last segment
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="segments")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def resume(self, sink: Sink, remove: Callable[[str], None]) -> Collection[str]:
        """The units that earlier starts have done, as ``Journal.surviving`` has them. Reads each receipt once."""
        segments = self.journal.segments.read(brief=True)
        self._copied = {name: {receipt.unit for receipt in receipts} for name, receipts in segments.items()}
        self._next += max((int(name.partition(".")[0]) for name in segments), default=0)
        known = {receipt.unit: receipt for receipts in segments.values() for receipt in receipts}
        done = self.journal.surviving(self._plan, sink, remove, known=known)
        self._remove_copies(known.keys() - done.keys())
        for unit, receipt in done.items():
            if receipt is known.get(unit):
                self._receipts[self._plan.unit[unit].shard][unit] = receipt
            else:
                self.add(receipt)
        return dict.fromkeys(done)

    def add(self, receipt: Receipt) -> None:
        """Count a unit whose receipt a worker has recorded."""
        self._receipts[self._plan.unit[receipt.unit].shard][receipt.unit] = receipt.brief
        self._copy(receipt)

    def remove(self, units: Sequence[str]) -> None:
        """No longer count units whose receipts were removed, and remove the copies. They run again only after that."""
        for unit in units:
            self._receipts[self._plan.unit[unit].shard].pop(unit, None)
            self._pending.pop(unit, None)
        self._remove_copies(set(units))

    def of(self, shard: int) -> dict[str, Receipt]:
        """The receipts of a shard's units, in short, as far as they are known."""
        return dict(self._receipts[shard])

    def settle(self) -> None:
        """Wait until every segment is written, or abandoned. One thread writes them in order."""
        if self._writing is not None:
            self._writing.result()

    def _copy(self, receipt: Receipt) -> None:
        self._pending[receipt.unit] = receipt.to_json()
        if len(self._pending) >= SEGMENT:
            name, self._next = f"{self._next:06d}.jsonl", self._next + 1
            lines, self._pending = self._pending, {}
            self._copied[name] = set(lines)
            self._writing = self._pool.submit(self._write, name, list(lines.values()))

    def _write(self, name: str, lines: Sequence[bytes]) -> None:
        try:
            self.journal.within(_DEADLINE).segments.write(name, lines)
        except StorageError as error:
            what = f"{error.message}: the next start reads {counted(len(lines), 'receipt')} one by one"
            _log.warning(f"warning: {what}")

    def _remove_copies(self, units: Collection[str]) -> None:
        self.settle()
        for name, copied in self._copied.items():
            if not copied.isdisjoint(units):
                self.journal.segments.remove(name, units)
                copied -= set(units)
