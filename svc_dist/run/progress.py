"""The progress of a run: a bar on a terminal or in a notebook, a line every few seconds elsewhere, a callback."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from svc_dist.errors import RecipeError, printable
from svc_dist.notebook.bar import NotebookBar, in_notebook
from svc_dist.plan.model import Plan
from svc_dist.run_folder.receipt import Receipt
from svc_dist.sizes import counted, format_size

_LINE_EVERY = 5.0
_REFRESH_EVERY = 0.1  # seconds: a bar that is drawn for each unit takes longer than the driver
_CALL_EVERY = 0.5  # seconds between two calls of a callback
_log = logging.getLogger("svc_dist")


@dataclass(frozen=True)
class MergeProgress:
    """How far a merge is, those of its units included that earlier runs completed.

    ``bytes``: read and written; ``share``: of the estimated work, in [0, 1]; ``seconds_left``: None while nothing is
    known to estimate them from; ``document``: the name of the document of the recipe that is merged, if it has one.
    """

    units_done: int
    units: int
    bytes_done: int
    bytes: int
    share: float
    seconds_left: float | None
    document: str | None = None

    def __str__(self) -> str:
        left = f", about {clock(self.seconds_left)} left" if self.seconds_left else ""
        return f"{self.share:.0%} done: {self.units_done:,} of {counted(self.units, 'unit')}{left}"


class Bar(Protocol):
    """Where the progress is drawn."""

    def start(self) -> None: ...

    def update(self, share: float, text: str) -> None: ...

    def stop(self) -> None: ...


class Progress:
    """Counts units, bytes and estimated work. The remaining time is estimated from the work done so far.

    ``bar``: draw one; ``callback``: called in the thread that drives the run, first when it starts, last when it is
    complete. What it raises ends the run.
    """

    def __init__(
        self,
        plan: Plan,
        done: Collection[str],
        bar: bool,
        callback: Callable[[MergeProgress], object] | None = None,
    ) -> None:
        self._plan = plan
        self._total_work = sum(unit.work for unit in plan.units)
        self._total_bytes = plan.bytes_in + plan.bytes_out
        self._work, self._bytes, self._units = 0.0, 0, 0
        self._began = self._last_line = time.monotonic()
        self._refreshed = self._called = 0.0
        if callback is not None and not callable(callback):
            raise RecipeError(
                f"on_progress is {callback!r}, but must be a function", "progress=True draws a bar of progress"
            )
        self._callback = callback
        self._told: MergeProgress | None = None
        self.count(done)
        self._work_before, self._bytes_before = self._work, self._bytes
        self._bar: Bar | None = None
        if bar:
            self._bar = NotebookBar() if in_notebook() else _TerminalBar()

    def __enter__(self) -> Progress:
        self._call()  # before there is a bar to stop: it may raise
        if self._bar is not None:
            self._bar.start()
            self._refresh()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._refresh()
            self._bar.stop()
        if kind is None:
            self._call()

    def count(self, units: Collection[str], sign: int = 1) -> None:
        """Add completed units; with ``sign`` -1 subtract those whose ranges the storage lost."""
        for unit in units:
            planned = self._plan.unit[unit]
            self._work += sign * planned.work
            self._bytes += sign * (planned.bytes_in + planned.bytes_out)
            self._units += sign

    def tick(self) -> None:
        """Refresh the bar or log a line, and call the callback, if the last time is long enough ago. Called often."""
        now = time.monotonic()
        if now - self._called >= _CALL_EVERY:
            self._call()
        if self._bar is not None:
            if now - self._refreshed >= _REFRESH_EVERY:
                self._refreshed = now
                self._refresh()
        elif now - self._last_line >= _LINE_EVERY:
            self._last_line = now
            _log.info(self.line(), extra={"fields": self.figures()})

    def figures(self) -> dict[str, float | None]:
        """Units, bytes read and written, the share of the estimated work, and the seconds that are left."""
        return {
            "units_done": self._units,
            "units": len(self._plan.units),
            "bytes_done": self._bytes,
            "bytes": self._total_bytes,
            "work_share": self._share(),
            "eta_seconds": self._eta(),
        }

    def state(self) -> tuple[int, float | None]:
        """Units done, and the seconds that are left as far as they can be estimated."""
        return self._units, self._eta()

    def line(self) -> str:
        """The progress in words, for the log."""
        return f"{self._share():.0%} done: {self._counts()}"

    def _share(self) -> float:
        return self._work / self._total_work if self._total_work else 1.0

    def _counts(self) -> str:
        eta = self._eta()
        left = f", about {clock(eta)} left" if eta else ""
        moved = f"{format_size(self._bytes)} of {format_size(self._total_bytes)} read and written"
        return f"{self._units:,} of {counted(len(self._plan.units), 'unit')}, {moved}{self._rate()}{left}"

    def _rate(self) -> str:
        """Bytes read and written a second since the start, of units that have ended."""
        since = self._bytes - self._bytes_before
        seconds = max(time.monotonic() - self._began, 1e-3)
        return f" at {format_size(int(since / seconds))}/s" if since > 0 else ""

    def _eta(self) -> float | None:
        since = self._work - self._work_before
        if since <= 0:
            return None
        return (time.monotonic() - self._began) * (self._total_work - self._work) / since

    def _refresh(self) -> None:
        assert self._bar is not None
        self._bar.update(self._share(), self._counts())

    def _call(self) -> None:
        self._called = time.monotonic()
        if self._callback is None:
            return
        name = self._plan.recipe.get("name")
        counts = self._units, len(self._plan.units), self._bytes, self._total_bytes
        told = MergeProgress(*counts, self._share(), self._eta(), None if name is None else str(name))
        if told != self._told:
            self._told = told
            self._callback(told)


class _TerminalBar:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        share = TextColumn("{task.percentage:>3.0f}%")
        columns = (TextColumn("{task.description}"), BarColumn(20), share, TimeElapsedColumn())
        self._drawn = Progress(*columns, console=Console(stderr=True))
        self._task = self._drawn.add_task("", total=1.0)

    def start(self) -> None:
        self._drawn.start()

    def update(self, share: float, text: str) -> None:
        self._drawn.update(self._task, completed=share, description=text)

    def stop(self) -> None:
        self._drawn.stop()


def unit_line(plan: Plan, receipt: Receipt) -> str:
    """A finished unit in words, for a detailed log: where it ran, seconds of each stage, its tensors."""
    names = [printable(plan.tensors[number].name) for number, _, _ in plan.unit[receipt.unit].pieces]
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in receipt.seconds.items())
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"unit {receipt.unit} on {receipt.device} of {receipt.host}: {stages}; {names[0]}{more}"


def clock(seconds: float) -> str:
    """Seconds as M:SS, or H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
