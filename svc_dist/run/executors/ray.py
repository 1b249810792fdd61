"""Executor as a Ray task graph: merge_unit -> finish_shard -> publish, plain tasks that take ids and return events.

The schedule counts retries, as for every executor, so Ray's are disabled (it would retry units killed for
memory without end).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from svc_dist.errors import SvcDistError, UnitsFailedError
from svc_dist.plan.model import Plan
from svc_dist.run.executors.ray_gpu import GONE, OwnDevice
from svc_dist.run.executors.ray_head import HeadWatch
from svc_dist.run.executors.ray_metrics import Metrics
from svc_dist.run.executors.ray_nodes import (
    RayNodes,
    booked,
    environment,
    first_line,
    join,
    on_node,
    own_sigterm,
    start_here,
    stop_here,
)
from svc_dist.run.host import default_slots
from svc_dist.run.options import Options
from svc_dist.run.placement import Booking, Node
from svc_dist.run.process import set_up_worker
from svc_dist.run.schedule import Capacity, Done, Event, Failed, FinishShard, Instruction, RangesLost, RunUnit
from svc_dist.run.worker import Worker
from svc_dist.run_folder.output import Output
from svc_dist.storage.access import Access

_Arguments = tuple[str, str, str | None, Access]
_workers: dict[str, Worker] = {}
_device = OwnDevice()
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # Ray prints them, as text, between our lines
}


class RayExecutor:
    """Runs instructions as tasks on a Ray cluster: the one at ``address``, or one that it starts on this machine."""

    name = "ray"

    def __init__(self, plan: Plan, output: Output, options: Options) -> None:
        with ExitStack() as restoring:
            restoring.enter_context(environment(_ENVIRONMENT))
            self._connect(plan, output, options)
            self._restoring = restoring.pop_all()

    def _connect(self, plan: Plan, output: Output, options: Options) -> None:
        import ray
        from ray.util import metrics

        self._ray = ray
        self._plan = plan
        self._arguments = (output.location, plan.fingerprint, options.scratch, output.access)
        self._refs: dict[Any, Instruction] = {}
        self._resend: dict[Instruction, float] = {}  # instructions to send again, and when
        self._owned = not ray.is_initialized()
        self._started = self._owned and options.address is None  # not only joined
        slots = options.slots
        if self._owned:
            start: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning", "configure_logging": False}
            with own_sigterm():
                if options.address is None:
                    threads = plan.settings.threads_per_unit
                    start_here(ray, start | {"num_cpus": (slots or default_slots(plan.settings)) * threads})
                else:
                    join(ray, start, options.address)
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)
        # One function for all: its first call waits for the head, which may be lost by the time a shard is finished.
        # The worker of a GPU task stays for the next one (max_calls=0), with its CUDA context and storage clients.
        self._task = ray.remote(max_retries=0, max_calls=0, num_cpus=0)(execute)
        # The driver's node can finish shards. Ray prefers idle nodes, and one without svc_dist is always idle.
        self._here = on_node(ray, ray.get_runtime_context().get_node_id(), soft=True)
        self._nodes = RayNodes(ray, plan.settings, min(slots or len(plan.units), len(plan.units)), self._started)
        self._metrics = Metrics(metrics, plan)

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self._nodes.available

    def submit(self, instruction: Instruction) -> None:
        self._send(instruction)
        self._metrics.started(instruction)

    def _send(self, instruction: Instruction) -> None:
        match instruction:
            case RunUnit(unit, booking):
                task = self._task.options(name=f"merge_unit:{unit}", **self._resources(booking))
            case FinishShard(shard):
                task = self._task.options(name=f"finish_shard:{shard}", scheduling_strategy=self._here)
            case _:
                task = self._task.options(name="publish", scheduling_strategy=self._here)
        self._refs[task.remote(self._arguments, instruction)] = instruction

    def abandon(self, instruction: Instruction) -> bool:
        """Cancel a task whose node may be disconnected or stopped; Ray itself would wait for it much longer."""
        self._resend.pop(instruction, None)
        for ref in [ref for ref, item in self._refs.items() if item == instruction]:
            del self._refs[ref]
            self._ray.cancel(ref, force=True)
        self._metrics.ended(Failed(instruction, UnitsFailedError("abandoned")))
        return True

    def wait(self, timeout: float) -> list[Event]:
        """The events that came in; waits at most ``timeout`` seconds for the first. Raises ClusterLostError."""
        for instruction in [item for item, due in self._resend.items() if time.monotonic() >= due]:
            del self._resend[instruction]
            self._send(instruction)
        refs = [*self._refs, *self._nodes.probes]
        if not refs:
            time.sleep(timeout)
        ready = self._ray.wait(refs, num_returns=1, timeout=timeout)[0] if refs else []
        events: list[Event] = []
        for ref in [ref for ref in ready if ref in self._refs]:
            event = self._event(ref)
            if event is not None:
                self._metrics.ended(event)
                events.append(event)
        if self._nodes.due(ready):
            if not self._head.check():  # refreshing the nodes would block
                time.sleep(timeout)
            elif self._nodes.refresh(ready):
                events.append(Capacity(self.nodes))
        return events

    def close(self) -> None:
        """Stop the cluster that this executor started, or disconnect from the one that it joined."""
        with self._restoring:
            if self._owned and not self._head.lost:  # without a head, Ray would wait for one
                if self._started:
                    stop_here(self._ray)
                else:
                    self._ray.shutdown()

    def _resources(self, booking: Booking | None) -> dict[str, Any]:
        """The resources that a unit's task asks Ray for, and its node."""
        settings = self._plan.settings
        if booking is None:
            return {"num_cpus": settings.threads_per_unit}
        where = {"memory": booking.memory, "scheduling_strategy": on_node(self._ray, booking.node, soft=True)}
        return where | booked(settings, booking.slots)

    def _event(self, ref: Any) -> Done | RangesLost | Failed | None:
        """The outcome of a task; None when it must be sent again, which does not count as an attempt."""
        instruction = self._refs.pop(ref)
        exceptions = self._ray.exceptions
        try:
            outcome: Done | RangesLost | None = self._ray.get(ref)
        except exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, SvcDistError):
                return Failed(instruction, cause)
            raise
        except exceptions.RayError as error:
            killed = isinstance(error, exceptions.OutOfMemoryError | exceptions.WorkerCrashedError)
            what = "killed for memory" if isinstance(error, exceptions.OutOfMemoryError) else "lost"
            lost = UnitsFailedError(f"the worker was {what}: {type(error).__name__}: {first_line(error)}")
            return Failed(instruction, lost, lost=True, killed=killed)
        if outcome is None:
            self._resend[instruction] = time.monotonic() + GONE
        return outcome


def execute(arguments: _Arguments, instruction: Instruction) -> Done | RangesLost | None:
    """Execute an instruction as a task; None: this process cannot, because it uses another GPU than the one booked."""
    import ray

    if not _device.claim(ray.get_runtime_context().get_accelerator_ids()["GPU"]):
        return None
    run = repr(arguments)
    if run not in _workers:
        _workers.clear()  # a worker process serves one run at a time; its clients live as long as it does
        _workers[run] = Worker(*arguments)
        set_up_worker(_workers[run].plan.settings)
    worker = _workers[run]
    try:
        return worker.execute(instruction)
    finally:
        if worker.plan.settings.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()  # for the other processes on this GPU
