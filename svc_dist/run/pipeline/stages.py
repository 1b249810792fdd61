"""The stages of a worker process, as the threads of its units go through them."""

from __future__ import annotations

import threading
from types import TracebackType

from svc_dist.errors import DrainedError
from svc_dist.run.pipeline.flow import Flow, Move, Stage


class Stages:
    """What the units of one process share; see ``Flow``."""

    def __init__(self, window: int, lanes: int, host_lanes: int = 1) -> None:
        self.flow = Flow(window, lanes, host_lanes)
        self.changed = threading.Condition()
        self.draining = False
        self.stopped = False

    def passage(self, size: int, lanes: int = 1, on_host: bool = False) -> Passage:
        """The way of one unit whose inputs have ``size`` bytes, and which computes on so many lanes."""
        return Passage(self, size, lanes, on_host)

    def drain(self) -> None:
        """Let units that do not compute yet end with DrainedError, now and from now on; the others finish."""
        with self.changed:
            self.draining = True
            self.changed.notify_all()

    def stop(self) -> None:
        """Let all units end with DrainedError at their next step: nobody waits for what they would still write."""
        self.stopped = True
        self.drain()

    def require_going(self) -> None:
        """Raise DrainedError after ``stop``."""
        if self.stopped:
            raise DrainedError("the run ended before this was written")


class Passage:
    """The way of one unit: it may read inside the ``with``, compute after ``compute``, and write after ``computed``."""

    def __init__(self, stages: Stages, size: int, lanes: int, on_host: bool) -> None:
        self._stages = stages
        self._size, self._lanes, self._on_host = size, lanes, on_host
        self._in: Stage | None = None

    def __enter__(self) -> Passage:
        try:
            with self._stages.changed:
                self._apply(self._stages.flow.arrive(self, self._size))
                self._wait_for(Stage.READ)
        except BaseException:  # an interrupt, too
            self.computed()
            raise
        return self

    def compute(self) -> None:
        """Wait for lanes: the inputs are there. Raises DrainedError."""
        with self._stages.changed:
            self._apply(self._stages.flow.has_read(self, self._lanes, self._on_host))
            self._wait_for(Stage.COMPUTE)

    def require_going(self) -> None:
        """Raise DrainedError when the run has ended: nothing is written any more."""
        self._stages.require_going()

    def computed(self) -> None:
        """Give up lanes and room: the inputs are gone."""
        with self._stages.changed:
            self._apply(self._stages.flow.has_computed(self))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.computed()

    def _wait_for(self, stage: Stage) -> None:
        self._stages.changed.wait_for(lambda: self._in is stage or self._stages.draining)
        if self._stages.draining:
            raise DrainedError("the run was asked to stop before the unit computed")

    def _apply(self, moves: list[Move]) -> None:
        for passage, stage in moves:
            assert isinstance(passage, Passage)
            passage._in = stage
        if moves:
            self._stages.changed.notify_all()
