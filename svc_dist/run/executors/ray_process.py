"""A process of a Ray cluster that runs units, for one GPU or for some cores of a node: its units share its stages."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

from svc_dist.errors import DrainedError
from svc_dist.plan.settings import Device
from svc_dist.run.executors.ray_nodes import own_versions
from svc_dist.run.host import device_memory, window_memory
from svc_dist.run.pipeline.shares import Share
from svc_dist.run.process import set_up_for_units, set_up_worker
from svc_dist.run.schedule import Done, Instruction, RangesLost
from svc_dist.run.worker import Worker
from svc_dist.storage.access import Access

CORES = "cores"  #: in the key of a process on cores, before the number of its share
_Arguments = tuple[str, str, str | None, Access]


class Found(NamedTuple):
    """What a process found: the versions there, and of a GPU what it is and how fast (None: not measured).

    ``number``: the device's on its node; ``gpu``: its kind; ``memory``: bytes for units.
    """

    versions: dict[str, str]
    number: str = ""
    gpu: str = ""
    build: str = ""
    memory: int = 0
    speed: float | None = None

    @property
    def kind(self) -> tuple[str, str]:
        return self.gpu, self.build


@dataclass(eq=False)
class Process:
    """A process that was started on a node: for a GPU, or for its ``share`` of the cores, the ``number``-th there.

    ``found``, and ``name`` of a GPU, are known once it has answered; ``ended``: why it takes no more units, where this
    is known; ``died``: by itself, with units of which no one knows which it was. ``drained``: its node is to end.
    """

    node: str
    actor: Any
    share: Share | None = None
    number: int = 0
    found: Found | None = None
    name: str = "a GPU"
    ended: str | None = None
    died: bool = False
    drained: bool = False

    @property
    def key(self) -> str:
        """Of its GPU, or of its share of the cores: the same for the process that replaces it."""
        if self.share is not None:
            return f"{self.node}/{CORES}/{self.number}"
        return f"{self.node}/{self.found.number}" if self.found is not None else ""


class UnitProcess:
    """What Ray keeps on a GPU, or on cores, that it booked. Its methods run in threads, as many as units are there."""

    def __init__(self, processes: int, lanes: int, on_device: bool) -> None:
        """``processes``: on its node, which share the memory there; ``lanes``: units that compute at a time."""
        self._processes, self._lanes, self._on_device = processes, lanes, on_device
        self._run: _Arguments | None = None
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._draining = False

    def found(self) -> Found:
        """Get ready for the units of any run, and describe the place. Raises RecipeError for a GPU without use."""
        import svc_dist.run.unit  # noqa: F401  # what the first unit would wait for

        return _described_gpu() if self._on_device else Found(own_versions())

    def drain(self) -> None:
        """Let units that do not compute yet end with DrainedError."""
        with self._lock:
            self._draining = True
            if self._worker is not None:
                self._worker.drain()

    def execute(self, arguments: _Arguments, instruction: Instruction) -> Done | RangesLost:
        """Execute an instruction of a run; see ``Worker``."""
        with self._lock:
            if self._draining:
                raise DrainedError("the run was asked to stop before the unit began")
            if self._worker is None or self._run != arguments:
                self._worker = Worker(
                    *arguments, has_host=False, window=window_memory(self._processes), lanes=self._lanes,
                    host_lanes=self._lanes,
                )  # fmt: skip
                self._run = arguments
                set_up_worker(self._worker.plan.settings)
            worker = self._worker
        with set_up_for_units(worker.plan.settings):
            return worker.execute(instruction)


def _described_gpu() -> Found:
    import ray

    from svc_dist.run.devices import cuda
    from svc_dist.run.devices.speed import measured_speed

    memory = device_memory(Device.CUDA) or 0
    booked = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    cuda.limit_memory(memory)
    speed = measured_speed(Device.CUDA)
    number = ",".join(map(str, booked))
    return Found(own_versions(), number, cuda.gpu_name(), cuda.torch_build(), memory, speed)
