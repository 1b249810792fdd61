"""The metrics of a run on Ray, exported by Ray's nodes for Prometheus."""

from __future__ import annotations

from typing import Any

from svc_dist.plan.model import Plan
from svc_dist.run.schedule import Done, Failed, Instruction, RangesLost, RunUnit


class Metrics:
    """Counters of one start of a run, each with the tag ``run``: the beginning of the plan's fingerprint.

    ``svc_dist_units_done``, ``svc_dist_attempts_failed`` and ``svc_dist_attempts_repeated``;
    ``svc_dist_bytes`` by ``direction`` (in, out); ``svc_dist_unit_seconds`` by ``stage`` (read, compute, write); the
    gauge ``svc_dist_units_in_flight``. ``metrics``: the module ``ray.util.metrics``.
    """

    def __init__(self, metrics: Any, plan: Plan) -> None:
        self._run = {"run": plan.fingerprint[:16]}

        def counter(name: str, what: str, *tags: str) -> Any:
            return metrics.Counter(f"svc_dist_{name}", description=what, tag_keys=("run", *tags))

        self._done = counter("units_done", "Units with a receipt.")
        self._failed = counter("attempts_failed", "Attempts at a unit that failed or were lost.")
        self._repeated = counter("attempts_repeated", "Attempts at a unit after its first.")
        self._bytes = counter("bytes", "Bytes read and written by units.", "direction")
        self._seconds = counter("unit_seconds", "Seconds that units spent in each stage.", "stage")
        self._in_flight = metrics.Gauge("svc_dist_units_in_flight", description="Units in flight.", tag_keys=("run",))
        self._flying: dict[str, None] = {}
        self._seen: dict[str, None] = {}

    def started(self, instruction: Instruction) -> None:
        if isinstance(instruction, RunUnit):
            if instruction.unit in self._seen:
                self._repeated.inc(1, self._run)
            self._seen[instruction.unit] = self._flying[instruction.unit] = None
            self._in_flight.set(len(self._flying), self._run)

    def ended(self, event: Done | RangesLost | Failed) -> None:
        if isinstance(event, RangesLost) or not isinstance(event.instruction, RunUnit):
            return
        self._flying.pop(event.instruction.unit, None)
        self._in_flight.set(len(self._flying), self._run)
        if isinstance(event, Failed) or event.receipt is None:
            self._failed.inc(1, self._run)
            return
        self._done.inc(1, self._run)
        for direction, count in (("in", event.receipt.bytes_in), ("out", event.receipt.bytes_out)):
            if count:
                self._bytes.inc(count, self._run | {"direction": direction})
        for stage, seconds in event.receipt.seconds.items():
            if seconds > 0:
                self._seconds.inc(seconds, self._run | {"stage": stage})
