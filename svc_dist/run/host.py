"""The resources of this machine: cores, devices, and available memory within the limits of its control groups."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from svc_dist.errors import RecipeError
from svc_dist.plan.settings import Device, Settings, SettingsRequest
from svc_dist.run.devices import cuda
from svc_dist.run.placement import PER_DEVICE

_log = logging.getLogger("svc_dist")
_CONTEXT = 512 << 20  # bytes of a GPU that CUDA and its libraries use for each unit; an estimate
_LANDING = 8  # the share of the memory for remote ranges where units have booked most of it
_WINDOW = 4  # the share of the memory for the inputs of units: these book half, and a quarter stays free
_UNKNOWN = 8 * 2**30  # bytes, where the system does not report it
_V2 = (("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))
_V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def detect_device() -> str:
    """``cuda`` where torch can use one, else ``cpu``. Imports torch only where a device file hints at a GPU."""
    return "cuda" if cuda.has_driver() and cuda.usable() else "cpu"


def identify_gpu() -> tuple[str, str]:
    """The kind of GPU and the build of torch here; both empty where torch can use no GPU."""
    return (cuda.gpu_name(), cuda.torch_build()) if detect_device() == Device.CUDA else ("", "")


def settings_here(request: SettingsRequest, recorded: Settings | None) -> Settings:
    """Complete settings for a run on this machine.

    Raises RecipeError when the run needs a GPU and this machine has none that torch can use, or one of another kind.
    """
    settings = request.resolve(recorded, detect_device, identify_gpu)
    if settings.device == Device.CUDA:
        if detect_device() != Device.CUDA:
            raise RecipeError(
                f"device is cuda, but torch can use no GPU here: {cuda.why_unusable()}",
                "repair that, leave out --device, or set --device cpu",
                code="cuda-unusable",
            )
        require_kind(settings, *identify_gpu())
    elif request.device == Device.AUTO and recorded is None and cuda.has_driver():
        _log.warning(f"warning: merging on the CPU, because torch can use no GPU here: {cuda.why_unusable()}")
    return settings


def require_kind(settings: Settings, gpu: str, build: str) -> None:
    """Raise RecipeError where a GPU or a build of torch is another than that of a run."""
    if settings.gpu and (gpu, build) != (settings.gpu, settings.build):
        raise RecipeError(
            f"the merge was begun on {settings.gpu} with torch {settings.build}, and here is {gpu} with torch {build}: "
            "the last bits of results would differ",
            "resume on the same kind of GPU with the same build of torch, or start over with --restart (with "
            "--mixed-gpus where kinds may differ)",
            code="other-gpu",
        )


def default_slots(settings: Settings) -> int:
    """Units in parallel: two per GPU; on the CPU as its cores allow, at least two (one reads, one computes)."""
    if settings.device.startswith("cuda"):
        return PER_DEVICE * device_count(settings.device)
    return max(2, cores() // settings.threads_per_unit)


def landing_memory(settings: Settings) -> int:
    """Bytes for the remote ranges of one process's units, of as many processes as this machine runs units."""
    return available_memory() // _LANDING // default_slots(settings)


def window_memory(processes: int = 1) -> int:
    """Bytes for the inputs of a process that runs several units, of so many such processes on this machine."""
    return available_memory() // _WINDOW // processes


def device_memory(device: str) -> int | None:
    """Bytes for units on the smallest device of a kind here; None for the CPU, whose memory is the machine's."""
    if not device.startswith("cuda"):
        return None
    return max(0, min(cuda.memory_of_each()) - PER_DEVICE * _CONTEXT)


def device_count(device: str) -> int:
    """Devices of a kind on this machine; the CPU counts as one."""
    if not device.startswith("cuda"):
        return 1
    return len(cuda.memory_of_each())


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new process can use: the least of what the machine and each enclosing control group allow.

    The page cache counts as available, its active pages too, as in ``MemAvailable``: the kernel reclaims it before it
    kills a process. ``root``: where ``/proc`` and the control groups are.
    """
    kilobytes = _fields(root / "proc/meminfo").get("MemAvailable:")
    available = [_UNKNOWN if kilobytes is None else kilobytes * 1024]
    for folder, (limits, usage, cached) in _groups(root):
        used, fields = _number(folder / usage), _fields(folder / "memory.stat")
        if used is None:
            continue
        used = max(0, used - sum(fields.get(name, 0) for name in cached))
        available += [max(0, limit - used) for name in limits if (limit := _number(folder / name)) is not None]
    return min(available)


def _groups(root: Path) -> Iterator[tuple[Path, tuple[tuple[str, ...], str, tuple[str, ...]]]]:
    """The folders of this process's memory control groups, innermost first, with the names of their files."""
    paths = {}  # by version
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[2] = path
        elif "memory" in controllers.split(","):
            paths[1] = path
    for line in filter(None, _lines(root / "proc/self/mountinfo")):
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ")[:3]
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "memory" in options.split(",") else 0
        if version not in paths:
            continue
        top, point = (name.replace("\\040", " ") for name in mount.split(" ")[3:5])
        group = PurePosixPath(paths[version])
        inside = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()  # else it is the mount's root
        if ".." in inside.parts:
            inside = PurePosixPath()
        for level in (inside, *inside.parents):
            yield root / point.lstrip("/") / level, _V2 if version == 2 else _V1


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    """The number in a file; None where the file is missing or contains ``max``."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else None


def _fields(file: Path) -> dict[str, int]:
    """The fields of a file whose lines consist of a name and a number."""
    words = (line.split() for line in _lines(file))
    return {entry[0]: int(entry[1]) for entry in words if len(entry) > 1 and entry[1].isdecimal()}
