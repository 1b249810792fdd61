"""The processes of a Ray cluster that run units, for as long as a connection lasts: one for each GPU, and for each few
cores of a node.

Tasks would come to any idle process: each would read, compute and write one unit after the other, and hold a CUDA
context on the device of its first one. Units that share a process share its stages here.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from svc_dist.errors import UnitsFailedError
from svc_dist.plan.settings import Device, Settings
from svc_dist.run.executors.ray_cluster import ClusterGpus, gpus_of_nodes
from svc_dist.run.executors.ray_nodes import (
    PROBES,
    REFRESH,
    draining,
    first_line,
    idle_resources,
    last_line,
    on_node,
    own_versions,
)
from svc_dist.run.executors.ray_process import Found, Process, UnitProcess
from svc_dist.run.pipeline import shares
from svc_dist.run.pipeline.shares import BESIDE_GPUS, Share
from svc_dist.run.placement import AHEAD, PER_DEVICE, Node

_log = logging.getLogger("svc_dist")


class RayProcesses:
    """The processes that take units, as they, nodes and devices come and go.

    ``start_gpus`` has those of GPUs get ready while a merge is planned; ``use`` gives all to a run, and starts those
    on cores. ``available``: by a key of node and GPU or share; ``probes``: references of pending answers;
    ``most``: units in parallel on all of them. A device that failed gets no more units, unless there is no other.
    ``started_here``: the cluster has this machine's code, so that no answer is waited for.
    """

    def __init__(self, ray: Any, started_here: bool = False) -> None:
        self._ray, self._known = ray, started_here
        self._settings: Settings | None = None
        self._most = self._largest = 0
        self._has_gpus = False
        self._class = ray.remote(max_restarts=0, max_task_retries=0)(UnitProcess)
        self.available: Mapping[str, Node] = {}
        self.probes: dict[Any, Process] = {}
        self._processes: list[Process] = []  # those that run, as far as is known
        self._failed: dict[str, str] = {}  # devices that failed, and how
        self._foreign: dict[str, str] = {}  # devices of another kind than the run's, and which
        self._starts = Counter[tuple[str, bool]]()  # those that ended before they answered, by node and kind
        self._refused: dict[tuple[str, bool], str] = {}  # why none is started any more, by node and kind
        self._busy: set[str] = set()  # nodes that other work had whole when they were first seen
        self._refreshed = float("-inf")

    def start_gpus(self, most: int) -> None:
        """Start processes on GPUs for a run whose settings are not known yet, ``most`` on each node."""
        self._settings, self._has_gpus, self._most = None, True, most
        self.refresh()

    def kinds(self, seconds: float) -> ClusterGpus:
        """The kinds of GPU as the first process of each node to answer describes them, and why others do not."""
        end = time.monotonic() + seconds
        while self._silent() and (left := end - time.monotonic()) > 0:
            ready = self._ray.wait(list(self.probes), num_returns=1, timeout=min(REFRESH, left))[0]
            self.refresh(ready)
        found, silent = ClusterGpus(), self._silent()
        for node, count in gpus_of_nodes(self._ray).items():
            kind = next((one.found.kind for one in self._answered() if one.found and one.node == node), None)
            if kind is not None:
                found.kinds[kind] += count
            else:
                waited = f"no answer within {seconds:.0f} s: other work may occupy them"
                refused = self._refused.get((node, True), "no core is beside it")
                found.add_unusable(waited if node in silent else refused, count)
        return found

    def use(self, settings: Settings, most: int, largest: int) -> None:
        """Give the processes to a run, with ``most`` units in parallel, of ``largest`` bytes of a node at most.

        Raises UnitsFailedError as ``refresh``.
        """
        self._settings, self._most, self._largest = settings, most, largest
        self._has_gpus = settings.device != Device.CPU
        resources = {entry["NodeID"]: entry["Resources"] for entry in self._ray.nodes() if entry["Alive"]}
        for process in self._processes:
            self._require_kind(process)
            wanted = self._shares(resources.get(process.node, {}))
            if process.share is not None and process.share not in wanted[process.number : process.number + 1]:
                self.end(process, "the run divides the node otherwise")
        devices = [one for one in self._processes if one.ended is None and one.share is None]
        for node in dict.fromkeys(device.node for device in devices):
            ready_first = sorted((one for one in devices if one.node == node), key=lambda one: one.found is None)
            for device in ready_first[most if self._has_gpus else 0 :]:
                self.end(device, "the run has fewer units")
        self.refresh()

    def due(self, ready: Collection[Any]) -> bool:
        """Whether it is time to refresh, or a probe is among what is ``ready``."""
        return time.monotonic() - self._refreshed >= REFRESH or any(ref in self.probes for ref in ready)

    def refresh(self, ready: Collection[Any] = ()) -> bool:
        """Query the cluster, and read the probes among what is ``ready``. Returns whether the processes changed.

        Raises UnitsFailedError when the run needs GPUs and none of the cluster can be used.
        """
        self._refreshed = time.monotonic()
        for ref in [ref for ref in ready if ref in self.probes]:
            self._answer(self.probes.pop(ref), ref)
        alive = {entry["NodeID"]: entry for entry in self._ray.nodes() if entry["Alive"]}
        self._processes = [one for one in self._processes if one.ended is None and one.node in alive]
        gpus = {node: self._gpus(entry["Resources"]) for node, entry in alive.items()}
        spared, leaving = self._spared(gpus), draining(self._ray)
        starting = [node for node in alive if node not in leaving]
        for node in [node for node in starting if (node, True) not in self._refused]:
            running = [one.key for one in self._processes if one.node == node and one.share is None]
            healthy = sum(key not in self._failed for key in running)  # Ray may give a failed device to a new process
            missing = min(gpus[node] - spared.get(node, 0), self._most) - healthy
            for _ in range(min(missing, gpus[node] - len(running))):
                self._begin(Process(node, None), gpus[node], PER_DEVICE, {"num_gpus": 1, "num_cpus": 1})
        if self._settings is None:
            return False
        self._require_usable({node: gpus[node] - spared.get(node, 0) for node in gpus})
        on_cores = {node: alive[node]["Resources"] for node in starting if (node, False) not in self._refused}
        self._begin_on_cores(on_cores, self._settings.threads_per_unit)
        before = self.available
        able = [one for one in self._processes if one.found and self._usable(one) and one.node not in leaving]
        if self._has_gpus and all(one.share is not None for one in able):
            able = []  # without a GPU, cores would get what needs one
        self.available = {one.key: self._as_node(one, alive[one.node], gpus[one.node]) for one in able}
        for process in self._processes:
            if process.node in leaving and not process.drained:  # others run what it has not begun to compute
                process.drained = True
                process.actor.drain.remote()
        return self.available != before

    def process(self, key: str) -> Process | None:
        """The process with this key, where it takes units; None where it went away."""
        return next((one for one in self._processes if one.found and one.ended is None and one.key == key), None)

    def end(self, process: Process, why: str, failed: bool = False) -> None:
        """End a process, with all units on it. ``failed``: its device did."""
        if process.ended is None:
            process.ended = why
            if failed:
                self._failed[process.key] = why
                _log.warning(f"{process.name} gets no more units: {why}")
            self._ray.kill(process.actor)
        self.available = {key: node for key, node in self.available.items() if key != process.key}

    def drain(self) -> None:
        """Let units that do not compute yet end with DrainedError."""
        for process in self._processes:
            process.actor.drain.remote()

    def close(self) -> None:
        """Give everything back."""
        for process in self._processes:
            self._ray.kill(process.actor)

    def _begin_on_cores(self, nodes: Mapping[str, Mapping[str, float]], threads: int) -> None:
        """Start processes for the shares of nodes that have none, as far as other work leaves cores for them."""
        running = {one.key for one in self._processes}
        idle: Mapping[str, dict[str, float]] | None = None
        for node, resources in nodes.items():
            wanted = self._shares(resources)
            for number, share in enumerate(wanted):
                process = Process(node, None, share, number)
                if process.key in running:
                    continue
                idle = idle_resources(self._ray) if idle is None else idle
                left = idle.get(node)
                process.share = shares.within(share, left, threads)
                if not process.share.lanes:
                    self._note_busy(node)
                    break
                options = {"num_cpus": threads * process.share.lanes, "memory": process.share.memory}
                if left is not None:
                    left["CPU"] -= options["num_cpus"]
                    left["memory"] = left.get("memory", 0) - options["memory"]
                self._begin(process, len(wanted), process.share.lanes, options)

    def _begin(self, process: Process, processes: int, lanes: int, options: Mapping[str, Any]) -> None:
        """Start a process, one of so many on its node."""
        booked = {name: amount for name, amount in options.items() if amount}
        threads = (1 + AHEAD) * lanes + 2  # units, and what they are asked beside
        where = on_node(self._ray, process.node, soft=False)
        kind = self._class.options(**booked, max_concurrency=threads, scheduling_strategy=where)
        process.actor = kind.remote(processes, lanes, process.share is None)
        self._processes.append(process)
        answer = process.actor.found.options(name="get_ready").remote()
        if self._known and process.share is not None:
            process.found = Found(own_versions())
        else:
            self.probes[answer] = process

    def _answer(self, process: Process, ref: Any) -> None:
        if process.ended is not None:
            return
        kind = (process.node, process.share is None)
        try:
            found: Found = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self.end(process, "it did not start")
            self._starts[kind] += 1
            # Either is a traceback, whose end says what.
            within = isinstance(error, self._ray.exceptions.RayTaskError) or "creation task" in first_line(error)
            if within or self._starts[kind] >= PROBES:
                self._refuse(*kind, last_line(error) if within else first_line(error))
            return
        self._starts[kind] = 0
        if found.versions != own_versions():
            self.end(process, "it has other versions")
            self._refuse(*kind, f"it has {found.versions}, and this command {own_versions()}")
            return
        process.found = found
        self._require_kind(process)

    def _require_kind(self, process: Process) -> None:
        """End the process of a device of another kind than the run's."""
        settings, found = self._settings, process.found
        if settings is None or found is None or not settings.gpu or process.share is not None:
            return
        if found.kind != (settings.gpu, settings.build):
            self._foreign[process.key] = f"{found.gpu} with torch {found.build}"
            self.end(process, "it is of another kind")
            _log.warning(
                f"GPU {found.number} of node {process.node} gets no units: it is {found.gpu} with torch {found.build}, "
                f"and this merge uses {settings.gpu} with torch {settings.build} (--mixed-gpus uses all)"
            )

    def _require_usable(self, gpus: Mapping[str, int]) -> None:
        """Raise UnitsFailedError where a run needs GPUs and none can be used. ``gpus``: of each node, not spared."""
        refused = [reason for (_, on_device), reason in self._refused.items() if on_device]
        reasons = dict.fromkeys([*refused, *self._foreign.values()])
        left = any(count > 0 for node, count in gpus.items() if (node, True) not in self._refused)
        if self._has_gpus and reasons and not left and all(one.share is not None for one in self._processes):
            raise UnitsFailedError(
                f"no GPU of the cluster can be used: {'; '.join(reasons)}",
                "repair the workers, or merge with --device cpu, which starts over in another OUTPUT",
            )

    def _answered(self) -> list[Process]:
        """The processes of GPUs that have answered."""
        return [one for one in self._processes if one.share is None and one.found is not None]

    def _silent(self) -> set[str]:
        """The nodes none of whose processes of GPUs has answered yet."""
        return {one.node for one in self.probes.values() if one.share is None} - {one.node for one in self._answered()}

    def _refuse(self, node: str, on_device: bool, reason: str) -> None:
        if (node, on_device) not in self._refused:
            self._refused[node, on_device] = reason
            told = self._refused.get((node, not on_device)) == reason
            if self._settings is not None and not told:  # before a run, ``kinds`` tells
                _log.warning(f"node {node} gets no units: {reason}")

    def _note_busy(self, node: str) -> None:
        if node not in self._busy and all(one.node != node for one in self._processes):
            self._busy.add(node)
            _log.warning(f"node {node} gets no units as long as other work has booked its cores")

    def _as_node(self, process: Process, entry: dict[str, Any], gpus: int) -> Node:
        assert process.found is not None
        host = f"{entry['NodeManagerHostname']} ({entry['NodeManagerAddress']})"
        if process.share is not None:
            lanes, memory = process.share
            return Node(lanes, memory, name=f"cores of {host}" if gpus else host, ahead=AHEAD * lanes)
        process.name = f"GPU {process.found.number} of {host}"
        memory = int(entry["Resources"].get("memory", 0)) // BESIDE_GPUS // gpus
        found = process.found
        return Node(PER_DEVICE, memory, found.memory, process.name, found.speed, AHEAD * PER_DEVICE)

    def _shares(self, resources: Mapping[str, float]) -> list[Share]:
        """Of the cores of a node, beside those of its GPUs' processes."""
        assert self._settings is not None
        threads = self._settings.threads_per_unit
        return shares.of_node(resources, self._gpus(resources), threads, self._most, self._largest)

    def _usable(self, process: Process) -> bool:
        if process.key not in self._failed:
            return True
        devices = [one for one in self._processes if one.share is None]
        return all(one.found is not None and one.key in self._failed for one in devices)

    def _spared(self, gpus: Mapping[str, int]) -> Counter[str]:
        """How many devices of each node are left alone: of another kind, or failed (while there are others)."""
        usable = [node for node in gpus if (node, True) not in self._refused]
        foreign = Counter(key.partition("/")[0] for key in self._foreign)
        failed = foreign + Counter(key.partition("/")[0] for key in self._failed)
        return failed if sum(gpus[node] - failed[node] for node in usable) > 0 else foreign

    def _gpus(self, resources: Mapping[str, float]) -> int:
        return min(int(resources.get("GPU", 0)), int(resources.get("CPU", 0))) if self._has_gpus else 0
