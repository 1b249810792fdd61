"""The interface of executors, which execute the schedule's instructions and report events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from svc_dist.run.placement import Node
from svc_dist.run.schedule import Event, Instruction


@runtime_checkable
class Drains(Protocol):
    """An executor whose units wait for one another in its processes."""

    def drain(self) -> None:
        """Give units up that do not compute yet: each is reported as Failed, lost and not counted."""


class Executor(Protocol):
    """Built from a Plan, an Output and Options; executes instructions by a ``Worker`` in each process.

    ``nodes``: where units can run when the executor is built; Capacity events report changes.
    """

    name: str

    @property
    def nodes(self) -> Mapping[str, Node]: ...

    def submit(self, instruction: Instruction) -> None:
        """Start an instruction; an event from ``wait`` reports how it went."""

    def abandon(self, instruction: Instruction) -> bool:
        """Stop waiting for an instruction that does not answer. False where that is impossible."""

    def wait(self, timeout: float) -> list[Event]:
        """The events that came in; waits at most ``timeout`` seconds for the first."""

    def close(self) -> None:
        """Release the executor's resources. Instructions in flight may outlive it."""
