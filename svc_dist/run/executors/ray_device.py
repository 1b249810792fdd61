"""The process of one GPU of a Ray cluster: it lives as long as the run, and the units on its device share it."""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from svc_dist.errors import DrainedError
from svc_dist.plan.settings import Device
from svc_dist.run.host import device_memory, window_memory
from svc_dist.run.placement import PER_DEVICE
from svc_dist.run.process import set_up_for_units, set_up_worker
from svc_dist.run.schedule import Done, Instruction, RangesLost
from svc_dist.run.worker import Worker
from svc_dist.storage.access import Access

_Arguments = tuple[str, str, str | None, Access]


class DeviceFound(NamedTuple):
    """What a process found: the versions there, its device and how fast that is (None: not measured).

    ``number``: the device's on its node; ``gpu``: its kind; ``memory``: bytes for units; ``host``, ``process``: where.
    """

    versions: dict[str, str]
    number: str
    gpu: str
    build: str
    memory: int
    speed: float | None
    process: int

    @property
    def kind(self) -> tuple[str, str]:
        return self.gpu, self.build


class DeviceProcess:
    """What Ray keeps on a GPU that it booked whole. Its methods run in threads, as many as units share the device."""

    def __init__(self, processes: int) -> None:
        """``processes``: of this kind on its node, which share the memory there."""
        self._processes = processes
        self._run: _Arguments | None = None
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._draining = False

    def found(self) -> DeviceFound:
        """Get ready for the units of any run, and describe the device. Raises RecipeError where torch cannot use it."""
        import ray

        import svc_dist.run.unit  # noqa: F401  # what the first unit would wait for
        from svc_dist.run.devices import cuda
        from svc_dist.run.devices.speed import measured_speed
        from svc_dist.run.executors.ray_nodes import own_versions

        memory = device_memory(Device.CUDA) or 0
        booked = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        cuda.limit_memory(memory)
        speed = measured_speed(Device.CUDA)
        number = ",".join(map(str, booked))
        return DeviceFound(own_versions(), number, cuda.gpu_name(), cuda.torch_build(), memory, speed, os.getpid())

    def drain(self) -> None:
        """Let units that do not compute yet end with DrainedError."""
        with self._lock:
            self._draining = True
            if self._worker is not None:
                self._worker.drain()

    def execute(self, arguments: _Arguments, instruction: Instruction) -> Done | RangesLost:
        """Execute an instruction of a run; see ``Worker``."""
        output, fingerprint, scratch, access = arguments
        with self._lock:
            if self._draining:
                raise DrainedError("the run was asked to stop before the unit began")
            if self._worker is None or self._run != arguments:
                window = window_memory(self._processes)
                self._worker = Worker(
                    output, fingerprint, scratch, access, has_host=False, window=window, lanes=PER_DEVICE
                )
                self._run = arguments
                set_up_worker(self._worker.plan.settings)
            worker = self._worker
        with set_up_for_units(worker.plan.settings):
            return worker.execute(instruction)
