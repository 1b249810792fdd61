"""How much of a matrix is handled at once: on the CPU what its cache holds, on a device what keeps it busy.

Importing this loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Entries that a device handles at once: each call costs it microseconds, whatever the size. Part of the results'
#: definition on a device (sums end with a block), so that it depends neither on the kind of device nor on its memory.
GRAIN = 1 << 24


def grain(device: str | torch.device, on_cpu: int) -> int:
    """Entries that are handled at once: ``on_cpu`` there, and at least a device's grain elsewhere."""
    return on_cpu if on_the_cpu(device) else max(on_cpu, GRAIN)


def lines(device: str | torch.device, on_cpu: int, length: int) -> int:
    """Rows or columns of that ``length`` that are handled at once."""
    return on_cpu if on_the_cpu(device) else max(on_cpu, GRAIN // max(length, 1))


def on_the_cpu(device: str | torch.device) -> bool:
    """Whether this is the CPU."""
    return f"{device}".startswith("cpu")
