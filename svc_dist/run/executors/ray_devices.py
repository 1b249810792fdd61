"""The GPUs of a Ray cluster, each with one process that books it whole for as long as the connection lasts.

Tasks would come to any idle process, whose CUDA context is on the device of its first task: such a process would have
to send them back, or hold a context on every device. Units that share a device share its process here.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from svc_dist.errors import UnitsFailedError
from svc_dist.plan.settings import Settings
from svc_dist.run.executors.ray_cluster import ClusterGpus, gpus_of_nodes
from svc_dist.run.executors.ray_device import DeviceFound, DeviceProcess
from svc_dist.run.executors.ray_nodes import PROBES, REFRESH, draining, first_line, last_line, on_node, own_versions
from svc_dist.run.placement import AHEAD, PER_DEVICE, Node

CORES = "cores"  #: in the key of a node's cores, in the place of a device's number
_MEMORY_OF_CORES = 2  # they get this share of a node's memory, and its devices the rest
_log = logging.getLogger("svc_dist")


@dataclass
class Device:
    """A process that was started for a GPU of a node. ``found`` and ``name`` are known once it has answered.

    ``ended``: why it takes no more units, where this is known.
    """

    node: str
    process: Any
    found: DeviceFound | None = None
    name: str = "a GPU"
    ended: str | None = None


class RayDevices:
    """The devices that take units, as nodes, devices and their processes come and go.

    Their processes start at once, so that they get ready while a merge is planned; ``use`` gives them to a run.
    ``available``: by a key of node and device; ``probes``: references of pending answers; ``most``: units in parallel
    on all of them. A device that failed gets no more units, unless there is no other.
    """

    def __init__(self, ray: Any, most: int) -> None:
        self._ray, self._most = ray, most
        self._settings: Settings | None = None
        options = {"num_gpus": 1, "num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        self._start = ray.remote(**options, max_concurrency=(1 + AHEAD) * PER_DEVICE + 2)(DeviceProcess)
        self.available: Mapping[str, Node] = {}
        self.probes: dict[Any, Device] = {}
        self._devices: list[Device] = []  # those whose process runs, as far as is known
        self._failed: dict[str, str] = {}  # devices that failed, and how
        self._foreign: dict[str, str] = {}  # devices of another kind than the run's, and which
        self._starts: dict[str, int] = {}  # processes of each node that ended before they answered
        self._refused: dict[str, str] = {}  # nodes that get no units, and why
        self._refreshed = float("-inf")
        self.refresh()

    def kinds(self, seconds: float) -> ClusterGpus:
        """The kinds of GPU as the first process of each node to answer describes them, and why others do not."""
        end = time.monotonic() + seconds
        while self._silent() and (left := end - time.monotonic()) > 0:
            ready = self._ray.wait(list(self.probes), num_returns=1, timeout=min(REFRESH, left))[0]
            self.refresh(ready)
        found, silent = ClusterGpus(), self._silent()
        for node, count in gpus_of_nodes(self._ray).items():
            kind = next((one.found.kind for one in self._devices if one.node == node and one.found), None)
            if kind is not None:
                found.kinds[kind] += count
            else:
                waited = f"no answer within {seconds:.0f} s: other work may occupy them"
                found.add_unusable(waited if node in silent else self._refused.get(node, "no core is beside it"), count)
        return found

    def use(self, settings: Settings, most: int) -> None:
        """Give the devices to a run, with ``most`` units in parallel. Raises UnitsFailedError as ``refresh``."""
        self._settings, self._most = settings, most
        for device in self._devices:
            self._require_kind(device)
        living = [device for device in self._devices if device.ended is None]
        for node in dict.fromkeys(device.node for device in living):
            ready_first = sorted((one for one in living if one.node == node), key=lambda one: one.found is None)
            for device in ready_first[most:]:
                self.end(device, "the run has fewer units")
        self.refresh()

    def due(self, ready: Collection[Any]) -> bool:
        """Whether it is time to refresh, or a probe is among what is ``ready``."""
        return time.monotonic() - self._refreshed >= REFRESH or any(ref in self.probes for ref in ready)

    def refresh(self, ready: Collection[Any] = ()) -> bool:
        """Query the cluster, and read the probes among what is ``ready``. Returns whether the devices changed.

        Raises UnitsFailedError when no GPU of the cluster can be used.
        """
        self._refreshed = time.monotonic()
        for ref in [ref for ref in ready if ref in self.probes]:
            self._answer(self.probes.pop(ref), ref)
        alive = {entry["NodeID"]: entry for entry in self._ray.nodes() if entry["Alive"]}
        self._devices = [device for device in self._devices if device.ended is None and device.node in alive]
        gpus = {node: self._gpus(entry["Resources"]) for node, entry in alive.items()}
        spared = self._spared(gpus)
        for node, count in gpus.items():
            running = sum(device.node == node for device in self._devices)
            for _ in range(min(count - spared.get(node, 0), self._most) - running if node not in self._refused else 0):
                self._begin(node, count)
        reasons = dict.fromkeys([*self._refused.values(), *self._foreign.values()])
        idle = {node for node, count in gpus.items() if node not in self._refused and count > spared.get(node, 0)}
        if self._settings is None:
            return False
        if reasons and not self._devices and not idle:
            raise UnitsFailedError(
                f"no GPU of the cluster can be used: {'; '.join(reasons)}",
                "repair the workers, or merge with --device cpu, which starts over in another OUTPUT",
            )
        before, leaving = self.available, draining(self._ray)
        self.available = {
            self._key(device): self._as_node(device, alive[device.node], gpus[device.node])
            for device in self._devices
            if device.found is not None and self._usable(device) and device.node not in leaving
        }
        for node in dict.fromkeys(key.rpartition("/")[0] for key in self.available):
            if (cores := self._cores(alive[node], gpus[node], self._settings.threads_per_unit)) is not None:
                self.available = {**self.available, f"{node}/{CORES}": cores}
        return self.available != before

    def device(self, key: str) -> Device | None:
        """The device with this key whose process takes units; None where it went away."""
        return next((one for one in self._devices if one.found and one.ended is None and self._key(one) == key), None)

    def end(self, device: Device, why: str, failed: bool = False) -> None:
        """End a device's process, with all units on it. ``failed``: the device itself did."""
        if device.ended is None:
            device.ended = why
            if failed:
                self._failed[self._key(device)] = why
                _log.warning(f"{device.name} gets no more units: {why}")
            self._ray.kill(device.process)
        self.available = {key: node for key, node in self.available.items() if key != self._key(device)}

    def host_for(self, cores: int, memory: int) -> str | None:
        """A node with so many cores beside those of its GPUs' processes, and so much memory."""
        for entry in self._ray.nodes():
            resources = entry["Resources"]
            idle = int(resources.get("CPU", 0)) - self._gpus(resources)
            if entry["Alive"] and idle >= cores and resources.get("memory", 0) >= memory:
                return str(entry["NodeID"])
        return None

    def drain(self) -> None:
        """Let units that do not compute yet end with DrainedError."""
        for device in self._devices:
            device.process.drain.remote()

    def close(self) -> None:
        """Give all devices back."""
        for device in self._devices:
            self._ray.kill(device.process)

    def _begin(self, node: str, count: int) -> None:
        """Start a process for one of the ``count`` devices of a node."""
        process = self._start.options(scheduling_strategy=on_node(self._ray, node, soft=False)).remote(count)
        device = Device(node, process)
        self._devices.append(device)
        self.probes[process.found.options(name="get_ready").remote()] = device

    def _answer(self, device: Device, ref: Any) -> None:
        if device.ended is not None:
            return
        try:
            found: DeviceFound = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self.end(device, "it did not start")
            self._starts[device.node] = self._starts.get(device.node, 0) + 1
            within = isinstance(error, self._ray.exceptions.RayTaskError)  # a traceback, whose end says what
            if within or self._starts[device.node] >= PROBES:
                self._refuse(device.node, last_line(error) if within else first_line(error))
            return
        self._starts[device.node] = 0
        if found.versions != own_versions():
            self.end(device, "it has other versions")
            self._refuse(device.node, f"it has {found.versions}, and this command {own_versions()}")
            return
        device.found = found
        self._require_kind(device)

    def _require_kind(self, device: Device) -> None:
        """End the process of a device of another kind than the run's."""
        settings, found = self._settings, device.found
        if settings is not None and found is not None and settings.gpu and found.kind != (settings.gpu, settings.build):
            self._foreign[self._key(device)] = f"{found.gpu} with torch {found.build}"
            self.end(device, "it is of another kind")
            _log.warning(
                f"GPU {found.number} of node {device.node} gets no units: it is {found.gpu} with torch {found.build}, "
                f"and this merge uses {settings.gpu} with torch {settings.build} (--mixed-gpus uses all)"
            )

    def _silent(self) -> set[str]:
        """The nodes none of whose processes has answered yet."""
        return {one.node for one in self.probes.values()} - {one.node for one in self._devices if one.found}

    def _refuse(self, node: str, reason: str) -> None:
        if node not in self._refused:
            self._refused[node] = reason
            if self._settings is not None:  # before a run, ``kinds`` tells
                _log.warning(f"node {node} gets no units: {reason}")

    def _as_node(self, device: Device, entry: dict[str, Any], gpus: int) -> Node:
        assert device.found is not None
        device.name = f"GPU {device.found.number} of {_host(entry)}"
        memory = int(entry["Resources"].get("memory", 0)) // _MEMORY_OF_CORES // gpus
        return Node(PER_DEVICE, memory, device.found.memory, device.name, device.found.speed, AHEAD * PER_DEVICE)

    def _cores(self, entry: dict[str, Any], gpus: int, threads: int) -> Node | None:
        """The cores beside those of a node's processes, for units that need no device; None where there are none."""
        resources = entry["Resources"]
        slots = min((int(resources.get("CPU", 0)) - gpus) // threads, self._most)
        memory = int(resources.get("memory", 0)) // _MEMORY_OF_CORES
        return Node(slots, memory, name=f"cores of {_host(entry)}") if slots > 0 else None

    def _key(self, device: Device) -> str:
        return f"{device.node}/{device.found.number}" if device.found is not None else ""

    def _usable(self, device: Device) -> bool:
        others = [one for one in self._devices if one.found is None or self._key(one) not in self._failed]
        return self._key(device) not in self._failed or not others

    def _spared(self, gpus: Mapping[str, int]) -> Counter[str]:
        """How many devices of each node are left alone: of another kind, or failed (while there are others)."""
        usable = [node for node in gpus if node not in self._refused]
        foreign = Counter(key.rpartition("/")[0] for key in self._foreign)
        failed = foreign + Counter(key.rpartition("/")[0] for key in self._failed)
        return failed if sum(gpus[node] - failed[node] for node in usable) > 0 else foreign

    def _gpus(self, resources: dict[str, float]) -> int:
        return min(int(resources.get("GPU", 0)), int(resources.get("CPU", 0)))


def _host(entry: dict[str, Any]) -> str:
    return f"{entry['NodeManagerHostname']} ({entry['NodeManagerAddress']})"
