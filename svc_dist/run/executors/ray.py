"""Executor on Ray: merge_unit -> finish_shard -> publish take ids and return events.

Units run in the processes of ``RayProcesses``; the rest are plain tasks. The schedule counts retries, as for every
executor, so Ray's are disabled (it would retry what is killed for memory without end).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from svc_dist.errors import DeviceFailedError, DeviceTooSmallError, DrainedError, SvcDistError, UnitsFailedError
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Device
from svc_dist.run.executors.ray_address import require_head
from svc_dist.run.executors.ray_cluster import warn_of_unused
from svc_dist.run.executors.ray_connection import RayConnection
from svc_dist.run.executors.ray_metrics import Metrics
from svc_dist.run.executors.ray_nodes import first_line, on_node
from svc_dist.run.executors.ray_process import Process
from svc_dist.run.host import default_slots
from svc_dist.run.options import Options
from svc_dist.run.pipeline.needs import Needs
from svc_dist.run.placement import Node
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
        self._on: dict[Any, Process] = {}  # the processes of units
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
        self._events: list[Event] = []  # known before anything is waited for
        # One function for all: its first call waits for the head, which may be lost by the time a shard is finished.
        self._task = ray.remote(max_retries=0, max_calls=0, num_cpus=0)(execute)
        # The driver's node can finish shards. Ray prefers idle nodes, and one without svc_dist is always idle.
        self._here = on_node(ray, ray.get_runtime_context().get_node_id(), soft=True)
        most = min(options.slots or len(plan.units), len(plan.units))
        self._processes = connection.processes(most, gpus=False)
        needs = Needs(plan, output.sink(plan.fingerprint).memory, landing=True)
        self._processes.use(plan.settings, most, needs.largest())
        self._reported = self._processes.available
        if plan.settings.device == Device.CPU:
            warn_of_unused(ray)
        self._metrics = Metrics(metrics, plan)

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self._processes.available

    def submit(self, instruction: Instruction) -> None:
        self._metrics.started(instruction)
        match instruction:
            case RunUnit(_, booking):
                self._send(instruction, None if booking is None else self._processes.process(booking.node))
                return
            case FinishShard(shard):
                name = f"finish_shard:{shard}"
            case _:
                name = "publish"
        task = self._task.options(name=name, scheduling_strategy=self._here)
        self._refs[task.remote(self._arguments, instruction)] = instruction

    def drain(self) -> None:
        self._processes.drain()

    def abandon(self, instruction: Instruction) -> bool:
        """End the process of a unit: its node may be disconnected, for which Ray itself would wait much longer."""
        for ref in [ref for ref, item in self._refs.items() if item == instruction]:
            del self._refs[ref]
            process = self._on.pop(ref, None)
            if process is None:
                self._ray.cancel(ref, force=True)
            else:  # its other units run again, which does not count as an attempt of theirs
                self._processes.end(process, f"{instruction.title} did not answer")
        self._metrics.ended(Failed(instruction, UnitsFailedError("abandoned")))
        return True

    def wait(self, timeout: float) -> list[Event]:
        """The events that came in; waits at most ``timeout`` seconds for the first. Raises ClusterLostError."""
        refs = [*self._refs, *self._processes.probes]
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
            self._metrics.ended(event)
            events.append(event)
        if self._processes.due(ready):
            if not self._head.check():  # refreshing would block
                time.sleep(timeout)
            else:
                self._processes.refresh(ready)
        if self._reported != self.nodes:
            self._reported = self.nodes
            events.append(Capacity(self.nodes))
        return events

    def close(self) -> None:
        """End what is in flight: the next run gets the processes. Close a connection of its own."""
        if self._on and not self._head.lost:  # Ray would wait for one
            for process in self._on.values():
                self._processes.end(process, "the run ended")
        if self._own is not None:
            self._own.close()

    def _send(self, instruction: RunUnit, process: Process | None) -> None:
        """Send a unit to its process."""
        if process is None:
            gone = UnitsFailedError("its process ended before the unit was sent there")
            self._events.append(Failed(instruction, gone, lost=True, uncounted=True))
            return
        ref = process.actor.execute.options(name=f"merge_unit:{instruction.unit}").remote(self._arguments, instruction)
        self._refs[ref], self._on[ref] = instruction, process

    def _event(self, ref: Any) -> Done | RangesLost | Failed:
        """The outcome of an instruction."""
        instruction, process = self._refs.pop(ref), self._on.pop(ref, None)
        exceptions = self._ray.exceptions
        try:
            outcome: Done | RangesLost = self._ray.get(ref)
        except exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if process is not None and isinstance(instruction, RunUnit):
                if isinstance(cause, DeviceTooSmallError):
                    return self._to_cores(instruction, cause)
                if isinstance(cause, DeviceFailedError):
                    again, name = process.ended is not None, process.name
                    self._processes.end(process, cause.message, failed=True)
                    failed = UnitsFailedError(f"{name}: {cause.message}")
                    return Failed(instruction, failed, lost=True, uncounted=again)
            if isinstance(cause, SvcDistError):
                drained = isinstance(cause, DrainedError)
                return Failed(instruction, cause, lost=drained, uncounted=drained)
            raise
        except exceptions.RayError as error:
            return self._lost(instruction, process, error)
        return outcome

    def _lost(self, instruction: Instruction, process: Process | None, error: Exception) -> Failed:
        """What follows where the process of an instruction went away: of several units there, any may be the reason."""
        exceptions = self._ray.exceptions
        node = isinstance(error, exceptions.NodeDiedError) or "node has died" in str(error)
        memory = isinstance(error, exceptions.OutOfMemoryError)
        died = memory or isinstance(error, exceptions.WorkerCrashedError | exceptions.ActorDiedError)
        what = "killed for memory" if memory else "lost with its node" if node else "lost"
        reason = f"{type(error).__name__}: {first_line(error)}"
        if process is None:
            killed, uncounted = died and not node, node
        elif process.ended is None:
            killed = died and not node
            uncounted = not killed or process in self._on.values()
            self._processes.end(process, "its process ended")
            process.died = killed
        else:
            killed, uncounted = process.died, True
            reason = reason if killed else process.ended
        lost = UnitsFailedError(f"the worker was {what}: {reason}")
        return Failed(instruction, lost, lost=True, killed=killed, uncounted=uncounted)

    def _to_cores(self, instruction: RunUnit, error: SvcDistError) -> Failed:
        """Have a unit that does not fit onto its GPU run on cores, where there are enough."""
        threads, memory = self._plan.settings.threads_per_unit, self._plan.unit[instruction.unit].memory
        if any(node.device_memory is None and node.memory >= memory for node in self.nodes.values()):
            return Failed(instruction, error, lost=True, uncounted=True, too_small=True)
        hint = f"use GPUs with more memory, or a node with {counted(threads, 'core')} beside its GPUs and "
        return Failed(instruction, UnitsFailedError(error.message, f"{hint}{format_size(memory)} of memory"))


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
    """Execute an instruction as a task: what is left once units are done, which needs no torch."""
    run = repr(arguments)
    if run not in _workers:
        _workers.clear()  # a worker process serves one run at a time; its clients live as long as it does
        _workers[run] = Worker(*arguments)
    return _workers[run].execute(instruction)
