"""The settings that results depend on: precision, threads per unit, kind of device, kind of GPU and build of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from svc_dist.errors import require_choice, require_count
from svc_dist.linalg.precision import Precision


class Device(StrEnum):
    """A kind of device that units compute on. ``auto``: the recorded run's, else CUDA where torch can use it."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class Settings:
    """Fixed when a run is created, because results depend on them. Raises RecipeError for a wrong value.

    ``gpu``: the kind of GPU, such as ``NVIDIA H100 80GB HBM3``; ``build``: that of torch beside it, such as
    ``2.13.0+cu130``. Both are empty on the CPU, and where a run may mix them.
    """

    precision: str = Precision.MIXED
    threads_per_unit: int = 1
    device: str = Device.CPU
    gpu: str = ""
    build: str = ""

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, Precision)
        require_choice("device", self.device, (Device.CPU, Device.CUDA))
        require_count("threads_per_unit", self.threads_per_unit)


@dataclass(frozen=True)
class SettingsRequest:
    """Settings as a caller asks for them; every entrance takes them in this form. Raises RecipeError on a wrong value.

    None and the device ``auto`` stand for the value of the run in the output, or for the default where there is none.
    ``mixed_gpus``: a run may use GPUs of several kinds, and several builds of torch: then the last bits of a tensor
    depend on where it was merged.
    """

    precision: str | None = None
    threads_per_unit: int | None = None
    device: str = Device.AUTO
    mixed_gpus: bool = False

    def __post_init__(self) -> None:
        if self.precision is not None:
            require_choice("precision", self.precision, Precision)
        if self.threads_per_unit is not None:
            require_count("threads_per_unit", self.threads_per_unit)
        require_choice("device", self.device, Device)

    def resolve(
        self,
        recorded: Settings | None,
        detect_device: Callable[[], str],
        identify_gpu: Callable[[], tuple[str, str]] = lambda: ("", ""),
    ) -> Settings:
        """The complete settings. ``recorded``: those of the run in the output; ``detect_device``: the best one here;
        ``identify_gpu``: the kind of GPU and the build of torch here.
        """
        default = recorded or Settings()
        device = self.device
        if device == Device.AUTO:
            device = recorded.device if recorded is not None else detect_device()
        threads = self.threads_per_unit or default.threads_per_unit
        gpu = build = ""
        if device != Device.CPU and recorded is not None and recorded.device == device:
            gpu, build = recorded.gpu, recorded.build
        elif device != Device.CPU and not self.mixed_gpus:
            gpu, build = identify_gpu()
        return Settings(self.precision or default.precision, threads, device, gpu, build)
