"""What units need of a node: memory of its own, and of a device; and which of them compute on cores in any case."""

from __future__ import annotations

from svc_dist.methods.costs import ON_HOST
from svc_dist.methods.registry import METHODS
from svc_dist.plan.model import Plan, Unit
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.run.placement import Need


class Needs:
    """What the units of a plan need. ``sink_memory``: bytes for what each writes; ``landing``: inputs lie in memory."""

    def __init__(self, plan: Plan, sink_memory: int = 0, landing: bool = False) -> None:
        self.plan, self._sink_memory, self._landing = plan, sink_memory, landing
        self._light: dict[int, bool] = {}

    def of(self, unit: str, on_host: bool = False) -> Need:
        """What a unit needs. ``on_host``: of cores, because it does not fit onto its GPU."""
        planned = self.plan.unit[unit]
        beside = self._sink_memory + planned.bytes_in * self._landing
        if on_host or self.on_host(planned):
            return Need(planned.memory + beside)
        return Need(ON_HOST + beside, planned.memory)

    def largest(self) -> int:
        """The most bytes of a node that a unit needs."""
        return max((self.of(unit.id).memory for unit in self.plan.units), default=0)

    def on_host(self, unit: Unit) -> bool:
        """Whether a unit computes on cores, whatever the run's device: its bytes take longer to a device and back.

        The plan alone decides it, so that results do not depend on who has cores idle.
        """
        if self.plan.settings.device == "cpu":
            return True
        tensors = (self.plan.tensors[number] for number, _, _ in unit.pieces)
        return bool(unit.pieces) and all(one.factor is None and self._is_light(one) for one in tensors)

    def _is_light(self, tensor: PlannedTensor) -> bool:
        """Whether a tensor is copied, or merged entry by entry, in every result."""
        if tensor.disposition not in self._light:
            self._light[tensor.disposition] = all(
                one.method is None or (one.calibration is None and METHODS[one.method].family != "spectral")
                for one in self.plan.dispositions(tensor)
            )
        return self._light[tensor.disposition]
