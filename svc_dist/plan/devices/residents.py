"""The inputs of a matrix that stay on a device while it is merged: as many as take no more memory than the merge."""

from __future__ import annotations

from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.methods.chunking import together_on_device
from svc_dist.plan.tensor import PlannedTensor

_ANY = 8  # bytes of an entry of a base that an adapter changes before: it lies in scratch space, in the compute dtype


def sizes_that_fit(tensor: PlannedTensor, peak: int) -> list[int]:
    """The bytes of each input, base first, that a device holds as it is stored beside a merge of ``peak`` bytes.

    The other inputs are sent each time they are read; deltas, and so results, are the same either way.
    """
    assert tensor.batch is not None
    count, rows, columns = tensor.batch
    elements = rows * columns * min(count, together_on_device(rows, columns))
    sizes: list[int] = []
    for number, source in enumerate(tensor.sources):
        size = 0 if source is None else bytes_of(source.dtype, elements)
        if number == 0 and tensor.base_factors:
            size = _ANY * elements
        if sum(sizes) + size > peak:
            break
        sizes.append(size)
    return sizes
