"""What every executor does: it executes the schedule's instructions somewhere and reports events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from svc_dist.plan.model import Plan
from svc_dist.run.executors import find_executor
from svc_dist.run.options import Options
from svc_dist.run.placement import Node
from svc_dist.run.schedule import Event, Instruction
from svc_dist.run_folder.output import Output


class Executor(Protocol):
    """Executes instructions by a ``Worker`` for each process, and reports how they went.

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
        """Release what the executor holds. Instructions in flight may outlive it."""


def load_executor(name: str) -> Callable[[Plan, Output, Options], Executor]:
    """What builds the executor with this name for a run. Imports its module. Raises RecipeError on an unknown name."""
    factory: Callable[[Plan, Output, Options], Executor] = find_executor(name).load()
    return factory
