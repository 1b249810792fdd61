"""The stages of a worker process, as the threads of its units go through them."""

from __future__ import annotations

import threading
from types import TracebackType

from svc_dist.run.pipeline.flow import Flow, Move, Stage


class Stages:
    """What the units of one process share; see ``Flow``."""

    def __init__(self, window: int, lanes: int, host_lanes: int = 1) -> None:
        self._flow = Flow(window, lanes, host_lanes)
        self._changed = threading.Condition()

    def passage(self, size: int, lanes: int = 1, on_host: bool = False) -> Passage:
        """The way of one unit whose inputs have ``size`` bytes, and which computes on so many lanes."""
        return Passage(self._flow, self._changed, size, lanes, on_host)


class Passage:
    """The way of one unit: it may read inside the ``with``, compute after ``compute``, and write after ``computed``."""

    def __init__(self, flow: Flow, changed: threading.Condition, size: int, lanes: int, on_host: bool) -> None:
        self._flow, self._changed = flow, changed
        self._size, self._lanes, self._on_host = size, lanes, on_host
        self._in: Stage | None = None

    def __enter__(self) -> Passage:
        try:
            with self._changed:
                self._apply(self._flow.arrive(self, self._size))
                self._changed.wait_for(lambda: self._in is Stage.READ)
        except BaseException:  # an interrupt
            self.computed()
            raise
        return self

    def compute(self) -> None:
        """Wait for lanes: the inputs are there."""
        with self._changed:
            self._apply(self._flow.has_read(self, self._lanes, self._on_host))
            self._changed.wait_for(lambda: self._in is Stage.COMPUTE)

    def computed(self) -> None:
        """Give up lanes and room: the inputs are gone."""
        with self._changed:
            self._apply(self._flow.has_computed(self))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.computed()

    def _apply(self, moves: list[Move]) -> None:
        for passage, stage in moves:
            assert isinstance(passage, Passage)
            passage._in = stage
        if moves:
            self._changed.notify_all()
