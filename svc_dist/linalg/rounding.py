"""What storage has rounded: how large the errors are that differences inherit from the dtype of stored weights.

A weight in bfloat16 is off by up to half of its last place, 2^-9 of itself, and so is its difference from a base: in
every direction, also where training changed nothing. The size of these errors follows from the weights and their dtype.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from svc_dist.linalg.devices.grain import grain, lines, on_the_cpu
from svc_dist.linalg.devices.transfer import sent
from svc_dist.linalg.noise import Noise

_CHUNK = 1 << 16  # entries that are looked at at once: in float64 with what follows from them a few MiB
_LOOKED_AT = 256  # entries that decide at little cost whether a dtype may be wider than its values
_NARROWER = {
    torch.float64: (torch.bfloat16, torch.float16, torch.float32),
    torch.float32: (torch.bfloat16, torch.float16),
}


def storage_rounding(stored: Tensor, base: Tensor | None, device: str) -> Noise:
    """What storage has rounded of ``stored - base``, matrices ``(m, n)`` in their dtypes.

    Without a base ``stored`` is the difference itself. Nothing is rounded in rows and columns that agree with the base.
    """
    rows, columns = (torch.zeros(size, dtype=torch.float64, device=device) for size in stored.shape)
    changed_rows, changed_columns = (torch.ones_like(sums) for sums in (rows, columns))
    dtype = stored.dtype
    if base is not None:
        dtype = values_dtype(stored)
        changed_columns.zero_()
        for part, weights, origin in _blocks(stored, base, device):
            differ = torch.ne(weights, origin)
            changed_rows[part] = differ.any(1).double()
            changed_columns += differ.any(0)
        changed_columns.clamp_max_(1)
    for part, weights, origin in _blocks(stored, base, device):
        largest = torch.finfo(weights.dtype).max  # a difference beyond it is not to be infinitely rounded
        change = weights if base is None else torch.sub(weights, origin).clamp_(-largest, largest)
        errors = variances(change, dtype).mul_(arithmetic(dtype))
        errors += variances(weights, dtype)
        errors.mul_(changed_rows[part, None]).mul_(changed_columns)
        rows[part] = errors.sum(1)
        columns += errors.sum(0)
    return Noise(rows, columns)


def values_dtype(stored: Tensor) -> torch.dtype:
    """The narrowest floating-point dtype that holds all values: files are often written wider than their weights."""
    flat = (stored if stored.is_contiguous() else stored.T).reshape(-1)
    for narrow in _NARROWER.get(stored.dtype, ()):
        step = grain(flat.device, _CHUNK)
        parts = (flat[start : start + step] for start in range(0, len(flat), step))
        if on_the_cpu(flat.device):
            same = all(torch.equal(part.to(narrow).to(part.dtype), part) for part in (flat[:_LOOKED_AT], *parts))
        else:  # each answer is waited for: one of all parts
            same = bool(torch.stack([(part.to(narrow).to(part.dtype) == part).all() for part in parts]).all())
        if same:
            return narrow
    return stored.dtype


def variances(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The variance, in float64, of what rounding to ``dtype`` takes from each value.

    It is even over a step of the dtype, ``eps * 2^floor(log2 |w|)``, whose square over 12 is its variance; the power of
    two is what the bits of a number hold beside its sign and fraction. Exact zeros are not rounded.
    """
    integers, exponent = (torch.int32, 0x7F800000) if values.dtype == torch.float32 else (torch.int64, 0x7FF << 52)
    info = torch.finfo(dtype)
    step = values.view(integers).bitwise_and(exponent).view(values.dtype).double()
    step.clamp_min_(info.smallest_normal).mul_(info.eps / 12**0.5)
    return step.masked_fill_(values == 0, 0).square_()


def arithmetic(dtype: torch.dtype) -> float:
    """How many roundings of the change itself went before that of the weight: in the sum over an adapter's rank.

    Products of 16-bit factors are summed in float32 and rounded twice; those in float32 lose a last place in each step.
    """
    return 2.0 if dtype.itemsize <= 2 else 16.0


def _blocks(stored: Tensor, base: Tensor | None, device: str) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows of both, the base's zero where there is none, in a dtype that holds all values of ``stored``."""
    kind = torch.float64 if stored.dtype == torch.float64 else torch.float32
    step = lines(device, max(1, _CHUNK // max(stored.shape[1], 1)), stored.shape[1])
    for start in range(0, len(stored), step):
        part = slice(start, start + step)
        weights = sent(stored[part], device).to(kind)
        yield part, weights, torch.zeros_like(weights) if base is None else sent(base[part], device).to(kind)
