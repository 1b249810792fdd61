"""Small matrices that a device merges together: how many, and the memory that the others take beside the first."""

from __future__ import annotations

from collections.abc import Sequence

from svc_dist.linalg.devices.limits import WORKSPACE
from svc_dist.methods.chunking import together_on_device
from svc_dist.methods.costs import HEAP_SLACK
from svc_dist.methods.method import Declaration
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.tensors.dispositions import Disposition


def matrices_together(tensor: PlannedTensor, dispositions: Sequence[Disposition]) -> int:
    """How many matrices of a tensor a device may merge at once."""
    disposition = dispositions[0]
    if tensor.batch is None or disposition.method is None or len(dispositions) > 1 or tensor.turned:
        return 1
    method, calibration = METHODS[disposition.method], disposition.calibration
    if method.batched is None or (calibration is None and method.family == "elementwise"):
        return 1
    if calibration is not None and CALIBRATIONS[calibration["method"]].batched is None:
        return 1
    count, rows, columns = tensor.batch
    return min(count, together_on_device(rows, columns))


def memory_beside(tensor: PlannedTensor, dispositions: Sequence[Disposition], precision: str) -> int:
    """Bytes of a device that merging matrices together takes beyond merging one, with the solver's workspace."""
    beside = matrices_together(tensor, dispositions) - 1
    if not beside:
        return 0
    assert tensor.batch is not None
    disposition, experts = dispositions[0], len(tensor.sources) - 1
    _, rows, columns = tensor.batch
    calibration = disposition.calibration
    every: list[Declaration] = [METHODS[disposition.method or ""]]
    every += [] if calibration is None else [CALIBRATIONS[calibration["method"]]]
    peak = max(one.memory(rows, columns, experts, precision) for one in every) - HEAP_SLACK
    sizes = [size for one in every for size, _ in one.work(rows, columns, experts, precision).eigen]
    return int(beside * (max(peak, 0) + 8 * WORKSPACE * max(sizes, default=0) ** 2))
