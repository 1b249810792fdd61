"""The eigensolver of a GPU: matrices that are too large for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from svc_dist.errors import Warned, warned
from svc_dist.linalg.devices.limits import largest_eigenproblem
from svc_dist.methods.costs import Work
from svc_dist.plan.costs import work
from svc_dist.plan.settings import Settings
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.sizes import counted


def solver_warnings(
    tensors: Iterable[PlannedTensor], dispositions: Sequence[Sequence[Disposition]], settings: Settings
) -> Iterator[Warned]:
    """Warnings about matrices that the solver of a run's build of torch does not take."""
    operations = (
        (tensor.name, work(tensor, dispositions[tensor.disposition], math.prod(tensor.shape), settings.precision))
        for tensor in tensors
    )
    return too_large(operations, settings)


def too_large(works: Iterable[tuple[str, Work]], settings: Settings) -> Iterator[Warned]:
    """A warning where matrices are larger than the solver of this build of torch takes. ``works``: by tensor."""
    limit = largest_eigenproblem(settings.build)
    if limit is None:
        return
    over = [(size, name) for name, operations in works for size, _ in operations.eigen if size > limit]
    if over:
        size, name = max(over)
        tensors = counted(len({name for _, name in over}), "tensor")
        yield warned(
            "solver-too-small",
            f"cuSOLVER of torch {settings.build} takes matrices of at most {limit:,} rows, but larger ones (up to "
            f"{size:,}: {name}) follow from {tensors}: each is split in two by products on the GPU, or made by LAPACK "
            "where that fails; a build of torch for CUDA 13 takes them whole",
        )
