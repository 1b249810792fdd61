"""What units need of a node: memory of its own, and of a device; and which of them compute on cores in any case."""

from __future__ import annotations

from svc_dist.methods.costs import ON_HOST
from svc_dist.plan.model import Plan
from svc_dist.run.placement import Need


class Needs:
    """What the units of a plan need. ``sink_memory``: bytes for what each writes; ``landing``: inputs lie in memory."""

    def __init__(self, plan: Plan, sink_memory: int = 0, landing: bool = False) -> None:
        self._plan, self._sink_memory, self._landing = plan, sink_memory, landing

    def of(self, unit: str) -> Need:
        """What a unit needs."""
        planned = self._plan.unit[unit]
        beside = self._sink_memory + planned.bytes_in * self._landing
        if self._plan.settings.device == "cpu":
            return Need(planned.memory + beside)
        return Need(ON_HOST + beside, planned.memory)
