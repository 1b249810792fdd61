"""Executor as a Ray task graph: merge_unit -> finish_shard -> publish, plain tasks that take ids and return receipts.

Retries are counted by the schedule, for both executors alike, so Ray's own are off (it would retry units killed for
memory without end).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from svc_dist.errors import SvcDistError, UnitsFailedError
from svc_dist.plan.model import Plan
from svc_dist.run.executors.ray_gpu import GONE, OwnDevice
from svc_dist.run.executors.ray_head import HeadWatch
from svc_dist.run.executors.ray_metrics import Metrics
from svc_dist.run.executors.ray_nodes import (
    RayNodes,
    booked,
    first_line,
    join,
    on_node,
    own_sigterm,
    start_here,
    stop_here,
)
from svc_dist.run.host import default_slots
from svc_dist.run.placement import Node, Place
from svc_dist.run.process import set_up_worker
from svc_dist.run.schedule import Capacity, Done, Event, Failed, FinishShard, Instruction, RunUnit
from svc_dist.run.worker import Worker
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.receipt import Receipt
from svc_dist.storage.access import Access

_Arguments = tuple[str, str, str | None, Access]
_workers: dict[str, Worker] = {}
_device = OwnDevice()
_ELSEWHERE = b""  #: a task's answer when it was sent to a process of another GPU


class RayExecutor:
    """Runs instructions as tasks on a Ray cluster: the one at ``address``, or one that it starts on this machine."""

    name = "ray"

    def __init__(self, plan: Plan, output: Output, scratch: str | None, address: str | None, slots: int | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # Ray prints them, as text, between our lines
        import ray
        from ray.util import metrics

        self._ray = ray
        self._plan = plan
        self._arguments = (output.location, plan.fingerprint, scratch, output.access)
        self._refs: dict[Any, Instruction] = {}
        self._again: dict[Instruction, float] = {}  # to be sent once more, and when
        self._owned = not ray.is_initialized()
        self._started = self._owned and address is None  # not only joined
        if self._owned:
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning", "configure_logging": False}
            with own_sigterm():
                if address is None:
                    threads = plan.settings.threads_per_unit
                    start_here(ray, options | {"num_cpus": (slots or default_slots(plan.settings)) * threads})
                else:
                    join(ray, options, address)
        self._head = HeadWatch(ray.get_runtime_context().gcs_address)
        # One function for all: its first call waits for the head, which may be gone when a shard is to be finished.
        # The worker of a GPU task stays for the next one (max_calls=0), with its CUDA context and storage clients.
        self._task = ray.remote(max_retries=0, max_calls=0, num_cpus=0)(carry_out)
        # The driver's own node has what finishing takes. Ray prefers idle ones, and one without svc_dist is idle.
        self._here = on_node(ray, ray.get_runtime_context().get_node_id(), soft=True)
        self._nodes = RayNodes(ray, plan.settings, min(slots or len(plan.units), len(plan.units)), self._started)
        self._metrics = Metrics(metrics, plan)

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self._nodes.found

    def submit(self, instruction: Instruction) -> None:
        self._send(instruction)
        self._metrics.started(instruction)

    def _send(self, instruction: Instruction) -> None:
        match instruction:
            case RunUnit(unit, place):
                task = self._task.options(name=f"merge_unit:{unit}", **self._booked(place))
            case FinishShard(shard):
                task = self._task.options(name=f"finish_shard:{shard}", scheduling_strategy=self._here)
            case _:
                task = self._task.options(name="publish", scheduling_strategy=self._here)
        self._refs[task.remote(self._arguments, instruction)] = instruction

    def give_up(self, instruction: Instruction) -> bool:
        """Cancel a task whose node may be cut off or stopped, which Ray itself would wait for much longer."""
        self._again.pop(instruction, None)
        for ref in [ref for ref, item in self._refs.items() if item == instruction]:
            del self._refs[ref]
            self._ray.cancel(ref, force=True)
        self._metrics.ended(Failed(instruction, UnitsFailedError("given up")))
        return True

    def wait(self, timeout: float) -> list[Event]:
        """Events that came in, waiting for one at most ``timeout`` seconds. Raises ClusterLostError."""
        for instruction in [item for item, due in self._again.items() if time.monotonic() >= due]:
            del self._again[instruction]
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
            if not self._head.ask():  # to look would not come back
                time.sleep(timeout)
            elif self._nodes.look(ready):
                events.append(Capacity(self.nodes))
        return events

    def close(self) -> None:
        """Stop the cluster that this executor started, or leave the one it joined."""
        if self._owned and not self._head.lost:  # without a head it would wait for one
            if self._started:
                stop_here(self._ray)
            else:
                self._ray.shutdown()

    def _booked(self, place: Place | None) -> dict[str, Any]:
        """What a unit's task asks of Ray, and where."""
        settings = self._plan.settings
        if place is None:
            return {"num_cpus": settings.threads_per_unit}
        where = {"memory": place.memory, "scheduling_strategy": on_node(self._ray, place.node, soft=True)}
        return where | booked(settings, place.slots)

    def _event(self, ref: Any) -> Done | Failed | None:
        """What became of a task; None when it is to be sent once more, which is no attempt."""
        instruction = self._refs.pop(ref)
        exceptions = self._ray.exceptions
        try:
            data = self._ray.get(ref)
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
        if data == _ELSEWHERE:
            self._again[instruction] = time.monotonic() + GONE
            return None
        return Done(instruction, None if data is None else Receipt.from_json(data))


def carry_out(arguments: _Arguments, instruction: Instruction) -> bytes | None:
    """An instruction as a task. Returns a unit's receipt as JSON, or that it is to be sent to another process."""
    import ray

    if not _device.is_booked(ray.get_runtime_context().get_accelerator_ids()["GPU"]):
        return _ELSEWHERE
    run = repr(arguments)
    if run not in _workers:
        _workers.clear()  # a worker process serves one run at a time; its clients live as long as it does
        _workers[run] = Worker(*arguments)
        set_up_worker(_workers[run].plan.settings)
    worker = _workers[run]
    try:
        receipt = worker.carry_out(instruction)
    finally:
        give_back(worker.plan.settings.device)
    return None if receipt is None else receipt.to_json()


def give_back(device: str) -> None:
    """Leave a GPU's memory to the other processes on it: torch keeps what was freed for its own."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
