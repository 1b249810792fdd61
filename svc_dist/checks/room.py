"""What a merge needs of disks and memory, and what this machine has of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Device, Settings
from svc_dist.run.host import available_memory, default_slots, detect_device, device_memory
from svc_dist.storage.access import DOCUMENT, Access
from svc_dist.storage.local import disk_usage
from svc_dist.storage.open import open_storage
from svc_dist.storage.reading import can_map


def free_space(folder: Path) -> int:
    """Free bytes of the disk on which a folder is, or will be made."""
    return int(disk_usage(folder).free)


def scratch_bytes(plans: Sequence[Plan], slots: int) -> int:
    """Bytes of inputs that lie in scratch space at a time, at most."""
    return max(sum(sorted((unit.bytes_in for unit in plan.units), reverse=True)[:slots]) for plan in plans)


def use_scratch(plans: Sequence[Plan], access: Access, remote_output: bool) -> bool:
    """Whether units of some plan read inputs into scratch space."""
    return any(plan.joins or any(_fetched(model, access, remote_output) for model in plan.inputs) for plan in plans)


def _fetched(model: PlannedModel, access: Access, remote_output: bool) -> bool:
    if model.location.startswith(DOCUMENT):
        return remote_output
    folder = open_storage(model.location, access).path
    return folder is None or not all(can_map(folder / file.name) for file in model.files[:1])


def slots_here(settings: Settings) -> int | None:
    """Units that run in parallel by default; None where the device that a plan is for is not here."""
    return default_slots(settings) if settings.device in (Device.CPU, detect_device()) else None


def largest_unit(plans: Sequence[Plan]) -> int:
    """Bytes of memory that the largest unit takes."""
    return max(unit.memory for plan in plans for unit in plan.units)


def memory_here(plans: Sequence[Plan]) -> tuple[int | None, int]:
    """Bytes for units on the smallest device here, None where units compute on the CPU or no device is here; and
    those of the host."""
    kind = plans[0].settings.device
    return device_memory(kind) if kind == detect_device() else None, available_memory()
