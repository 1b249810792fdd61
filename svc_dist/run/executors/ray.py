"""Executor on Ray: merge_unit -> finish_shard -> publish take ids and return events.

They are plain tasks, but units on a GPU, which the process of that GPU runs. The schedule counts retries, as for every
executor, so Ray's are disabled (it would retry units killed for memory without end).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from svc_dist.errors import DeviceFailedError, DeviceTooSmallError, DrainedError, SvcDistError, UnitsFailedError
from svc_dist.plan.model import Plan
from svc_dist.run.executors.ray_address import require_head
from svc_dist.run.executors.ray_cluster import warn_of_unused
from svc_dist.run.executors.ray_connection import RayConnection
from svc_dist.run.executors.ray_devices import CORES, Device, RayDevices
from svc_dist.run.executors.ray_metrics import Metrics
from svc_dist.run.executors.ray_nodes import RayNodes, booked, first_line, on_node
from svc_dist.run.host import default_slots
from svc_dist.run.options import Options
from svc_dist.run.placement import Booking, Node
from svc_dist.run.process import set_up_worker
from svc_dist.run.schedule import Capacity, Done, Event, Failed, FinishShard, Instruction, RangesLost, RunUnit
from svc_dist.run.worker import Worker
from svc_dist.run_folder.output import Output
from svc_dist.sizes import counted, format_size
from svc_dist.storage.access import Access

_Arguments = tuple[str, str, str | None, Access]
_workers: dict[str, Worker] = {}


class RayExecutor:
    """Runs instructions as tasks on a Ray cluster: by the connection of the options, else by one of its own to their
    address, or to a cluster that it starts on this machine."""

    name = "ray"

    def __init__(self, plan: Plan, output: Output, options: Options) -> None:
        connection = options.connection or connect(options.address, lambda: _cores(plan, options))
        self._own = connection if options.connection is None else None
        with ExitStack() as failed:
            failed.callback(self.close)
            self._connect(plan, output, options, connection)
            failed.pop_all()

    def _connect(self, plan: Plan, output: Output, options: Options, connection: RayConnection) -> None:
        from ray.util import metrics

        self._ray = ray = connection.ray
        self._plan, self._head = plan, connection.head
        self._arguments = (output.location, plan.fingerprint, options.scratch, output.access)
        self._refs: dict[Any, Instruction] = {}
        self._on: dict[Any, Device] = {}  # the devices of units that run on one
        self._events: list[Event] = []  # known before anything is waited for
        # One function for all: its first call waits for the head, which may be lost by the time a shard is finished.
        self._task = ray.remote(max_retries=0, max_calls=0, num_cpus=0)(execute)
        # The driver's node can finish shards. Ray prefers idle nodes, and one without svc_dist is always idle.
        self._here = on_node(ray, ray.get_runtime_context().get_node_id(), soft=True)
        most = min(options.slots or len(plan.units), len(plan.units))
        self._devices: RayDevices | None = None
        if plan.settings.device != "cpu":
            self._devices = connection.devices(most)
            self._devices.use(plan.settings, most)
        self._nodes = self._devices or RayNodes(ray, plan.settings, most, connection.started)
        self._reported = self._nodes.available
        if self._devices is None:
            warn_of_unused(ray)
        self._metrics = Metrics(metrics, plan)

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self._nodes.available

    def submit(self, instruction: Instruction) -> None:
        self._metrics.started(instruction)
        match instruction:
            case RunUnit(unit, booking):
                node, _, part = (booking.node if booking is not None else "").rpartition("/")
                if self._devices is not None and booking is not None and part != CORES:
                    self._send_to_device(self._devices, instruction, booking)
                    return
                task = self._task.options(name=f"merge_unit:{unit}", **self._resources(booking, node or part))
            case FinishShard(shard):
                task = self._task.options(name=f"finish_shard:{shard}", scheduling_strategy=self._here)
            case _:
                task = self._task.options(name="publish", scheduling_strategy=self._here)
        self._refs[task.remote(self._arguments, instruction)] = instruction

    def drain(self) -> None:
        if self._devices is not None:
            self._devices.drain()

    def abandon(self, instruction: Instruction) -> bool:
        """Cancel a task whose node may be disconnected or stopped; Ray itself would wait for it much longer."""
        for ref in [ref for ref, item in self._refs.items() if item == instruction]:
            del self._refs[ref]
            device = self._on.pop(ref, None)
            if device is None or self._devices is None:
                self._ray.cancel(ref, force=True)
            else:  # its other units run again, which does not count as an attempt of theirs
                self._devices.end(device, f"{instruction.title} did not answer")
        self._metrics.ended(Failed(instruction, UnitsFailedError("abandoned")))
        return True

    def wait(self, timeout: float) -> list[Event]:
        """The events that came in; waits at most ``timeout`` seconds for the first. Raises ClusterLostError."""
        refs = [*self._refs, *self._nodes.probes]
        events, self._events = self._events, []
        if events:
            timeout = 0.0
        elif not refs:
            time.sleep(timeout)
        ready = self._ray.wait(refs, num_returns=1, timeout=timeout)[0] if refs else []
        if ready:  # all that are: a look at a thousand references takes longer than what follows from one event
            ready = self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        for ref in [ref for ref in ready if ref in self._refs]:
            event = self._event(ref)
            if event is not None:
                self._metrics.ended(event)
                events.append(event)
        if self._nodes.due(ready):
            if not self._head.check():  # refreshing the nodes would block
                time.sleep(timeout)
            else:
                self._nodes.refresh(ready)
        if self._reported != self.nodes:
            self._reported = self.nodes
            events.append(Capacity(self.nodes))
        return events

    def close(self) -> None:
        """Close a connection of its own."""
        if self._own is not None:
            self._own.close()

    def _resources(self, booking: Booking | None, node: str) -> dict[str, Any]:
        """The resources that a unit's task asks Ray for, and its node, by Ray's id."""
        settings = self._plan.settings
        if booking is None:
            return {"num_cpus": settings.threads_per_unit}
        where = {"memory": booking.memory, "scheduling_strategy": on_node(self._ray, node, soft=True)}
        return where | booked(settings, booking.slots)

    def _send_to_device(self, devices: RayDevices, instruction: RunUnit, booking: Booking) -> None:
        device = devices.device(booking.node)
        if device is None:
            gone = UnitsFailedError("the process of its GPU ended before it was sent there")
            self._events.append(Failed(instruction, gone, lost=True, uncounted=True))
            return
        method = device.process.execute.options(name=f"merge_unit:{instruction.unit}")
        ref = method.remote(self._arguments, instruction)
        self._refs[ref], self._on[ref] = instruction, device

    def _send_to_host(self, devices: RayDevices, instruction: RunUnit, error: SvcDistError) -> Failed | None:
        """Send a unit that does not fit onto its GPU to cores that are booked for it, where there are enough."""
        threads, memory = self._plan.settings.threads_per_unit, self._plan.unit[instruction.unit].memory
        node = devices.host_for(threads, memory)
        if node is None:
            hint = f"use GPUs with more memory, or a node with {counted(threads, 'core')} beside its GPUs and "
            return Failed(instruction, UnitsFailedError(error.message, f"{hint}{format_size(memory)} of memory"))
        where = on_node(self._ray, node, soft=True)
        task = self._task.options(
            name=f"merge_unit:{instruction.unit}", num_cpus=threads, memory=memory, scheduling_strategy=where
        )
        self._refs[task.remote(self._arguments, dataclasses.replace(instruction, on_host=True))] = instruction
        return None

    def _event(self, ref: Any) -> Done | RangesLost | Failed | None:
        """The outcome of an instruction; None where it continues on cores, because it does not fit onto its GPU."""
        instruction, device = self._refs.pop(ref), self._on.pop(ref, None)
        exceptions = self._ray.exceptions
        try:
            outcome: Done | RangesLost = self._ray.get(ref)
        except exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if self._devices is not None and device is not None and isinstance(instruction, RunUnit):
                if isinstance(cause, DeviceTooSmallError):
                    return self._send_to_host(self._devices, instruction, cause)
                if isinstance(cause, DeviceFailedError):
                    again, name = device.ended is not None, device.name
                    self._devices.end(device, cause.message, failed=True)
                    failed = UnitsFailedError(f"{name}: {cause.message}")
                    return Failed(instruction, failed, lost=True, uncounted=again)
            if isinstance(cause, SvcDistError):
                drained = isinstance(cause, DrainedError)
                return Failed(instruction, cause, lost=drained, uncounted=drained)
            raise
        except exceptions.RayError as error:
            node = isinstance(error, exceptions.NodeDiedError) or "node has died" in str(error)
            memory = isinstance(error, exceptions.OutOfMemoryError)
            killed = memory or isinstance(error, exceptions.WorkerCrashedError | exceptions.ActorDiedError)
            ended = None if device is None else device.ended
            if self._devices is not None and device is not None and ended is None:
                self._devices.end(device, "its process ended")
            what = "killed for memory" if memory else "lost with its node" if node else "lost"
            reason = ended or f"{type(error).__name__}: {first_line(error)}"
            lost = UnitsFailedError(f"the worker was {what}: {reason}")
            uncounted = node or ended is not None
            return Failed(instruction, lost, lost=True, killed=killed and not uncounted, uncounted=uncounted)
        return outcome


def connect(address: str | None, cores: Callable[[], int] = lambda: 1) -> RayConnection:
    """Join the cluster at an address, or start one with so many cores here. Raises RecipeError, StorageError."""
    if address is not None:
        require_head(address)  # before seconds of imports
    import ray

    return RayConnection(ray, address, cores)


def _cores(plan: Plan, options: Options) -> int:
    """The cores of a cluster on this machine."""
    return (options.slots or default_slots(plan.settings)) * plan.settings.threads_per_unit


def execute(arguments: _Arguments, instruction: Instruction) -> Done | RangesLost:
    """Execute an instruction as a task."""
    run = repr(arguments)
    if run not in _workers:
        _workers.clear()  # a worker process serves one run at a time; its clients live as long as it does
        _workers[run] = Worker(*arguments)
        set_up_worker(_workers[run].plan.settings)
    return _workers[run].execute(instruction)
