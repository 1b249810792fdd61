"""How a merge runs: options that validate themselves when they are built."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from svc_dist.errors import RecipeError, is_installed, require_count, require_extra
from svc_dist.plan.settings import SettingsRequest
from svc_dist.run.executors import find_executor
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage

if TYPE_CHECKING:  # keeps the command's help fast: the command line takes its enums from here
    from svc_dist.plan.model import Plan
    from svc_dist.run.executors.ray_connection import RayConnection
    from svc_dist.run.progress import MergeProgress

_log = logging.getLogger("svc_dist")


#: What runs beside the units of a merge; it is given a function that says how far they are.
Watch = Callable[[Callable[[], Mapping[str, float | None]]], AbstractContextManager[None]]


class ExecutorKind(StrEnum):
    """Where units run. ``auto``: ``ray`` with an address or several devices (and Ray installed), else ``inline``."""

    AUTO = "auto"
    INLINE = "inline"
    RAY = "ray"


@dataclass(frozen=True)
class Limits:
    """Time limits of a run in seconds. Raises RecipeError when one is negative or not a number.

    ``grace``: for running units after the run was asked to stop; ``runtime``: after which the run stops gracefully;
    ``unit``: after which a unit on a cluster counts as lost, in addition to 20 times what its device takes by its own
    estimate;
    ``no_node``: after which a run ends while no node can run a unit; ``pause``: before the first retry of lost work,
    twice as long before each further one.
    """

    grace: float = 60.0
    runtime: float | None = None
    unit: float = 120.0
    no_node: float = 1800.0
    pause: float = 1.0

    def __post_init__(self) -> None:
        runtime = 0.0 if self.runtime is None else self.runtime
        limits = {"grace": self.grace, "max_runtime": runtime, "unit_deadline": self.unit, "node_timeout": self.no_node}
        for option, value in limits.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise RecipeError(f"{option} is {value!r}, but must be a number of seconds, at least 0")


@dataclass(frozen=True)
class Options:
    """How to run. Only ``settings`` change the result: they are fixed when a run is created.

    Raises RecipeError when a value is wrong or two options contradict each other. ``progress``: show a progress bar.
    ``on_progress``: see ``Progress``. ``watch``: runs beside the units, with what ``Progress.figures`` says.
    ``connection``: to the cluster at ``address``, where the run shares one with its planning.
    """

    executor: str = ExecutorKind.AUTO
    address: str | None = None
    slots: int | None = None
    settings: SettingsRequest = field(default_factory=SettingsRequest)
    scratch: str | None = None
    restart: bool = False
    limits: Limits = field(default_factory=Limits)
    progress: bool = False
    on_progress: Callable[[MergeProgress], object] | None = field(default=None, compare=False)
    watch: Watch = field(default=lambda figures: nullcontext(), compare=False)
    connection: RayConnection | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.executor != ExecutorKind.AUTO:
            find_executor(self.executor)
        if self.slots is not None:
            require_count("slots", self.slots)
        if self.executor == ExecutorKind.INLINE and self.address is not None:
            raise RecipeError(
                f"address is {self.address!r}, but executor is inline, which runs units in this process",
                "leave out the address, or set executor to ray",
            )
        if self.executor == ExecutorKind.RAY:
            require_extra("cluster", "executor ray", "ray")
        elif self.executor == ExecutorKind.AUTO and self.address is not None:
            require_extra("cluster", "a merge on a cluster", "ray")

    def executor_for(self, count_devices: Callable[[], int]) -> str:
        """The executor of a run. ``count_devices``: asked for those of this machine only where they decide."""
        if self.executor != ExecutorKind.AUTO:
            return self.executor
        if self.address is not None:
            return ExecutorKind.RAY
        devices = count_devices()
        if devices > 1 and is_installed("ray"):
            return ExecutorKind.RAY
        if devices > 1:
            _log.warning(
                f"warning: units run on one of {devices} devices, because Ray is not installed: pip install "
                "'svc-dist[cluster]'"
            )
        return ExecutorKind.INLINE

    def without_effect(self, executor: str, plan: Plan, access: Access) -> Iterator[str]:
        """Warnings about options that change nothing in a run of ``plan`` by this executor."""
        if executor == ExecutorKind.INLINE and self.limits.unit != Limits().unit:
            yield "unit_deadline has no effect: the inline executor cannot lose a unit"
        if executor == ExecutorKind.INLINE and self.limits.no_node != Limits().no_node:
            yield "node_timeout has no effect: the inline executor runs units in this process"
        local = all(open_storage(model.location, access).path is not None for model in plan.inputs)
        if self.scratch is not None and local and not plan.joins:
            yield "scratch has no effect: all inputs are local"
