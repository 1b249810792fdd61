"""The progress of a run: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from svc_dist.plan.model import Plan
from svc_dist.sizes import counted, format_size

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_LINE_EVERY = 5.0
_REFRESH_EVERY = 0.1  # seconds: a bar that is drawn for each unit takes longer than the driver
_log = logging.getLogger("svc_dist")


class Progress:
    """Counts units, bytes and estimated work. The remaining time is estimated from the work done so far."""

    def __init__(self, plan: Plan, done: Collection[str], bar: bool) -> None:
        self._plan = plan
        self._total_work = sum(unit.work for unit in plan.units)
        self._total_bytes = plan.bytes_in + plan.bytes_out
        self._work, self._bytes, self._units = 0.0, 0, 0
        self._began = self._last_line = time.monotonic()
        self._refreshed = 0.0
        self._bar: Bar | None = None
        self.count(done)
        self._work_before, self._bytes_before = self._work, self._bytes
        self._bar = _bar(self._total_work) if bar else None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._refresh()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._refresh()
            self._bar.stop()

    def count(self, units: Collection[str], sign: int = 1) -> None:
        """Add completed units; with ``sign`` -1 subtract those whose ranges the storage lost."""
        for unit in units:
            planned = self._plan.unit[unit]
            self._work += sign * planned.work
            self._bytes += sign * (planned.bytes_in + planned.bytes_out)
            self._units += sign

    def tick(self) -> None:
        """Refresh the bar, or log a line, if the last time is long enough ago. Called often."""
        now = time.monotonic()
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
        self._bar.update(self._bar.task_ids[0], completed=self._work, description=self._counts())


def _bar(total: float) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    share = TextColumn("{task.percentage:>3.0f}%")
    columns = (TextColumn("{task.description}"), BarColumn(20), share, TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task("", total=total)
    return bar


def clock(seconds: float) -> str:
    """Seconds as M:SS, or H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
