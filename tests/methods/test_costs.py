"""What methods say they cost is what they do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from svc_dist.methods.costs import Work
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from tests.support.spectral_cases import merge_matrix

EXPERTS = 3
SVC = {"method": "svc", "alpha": 1 / EXPERTS, "side": "left"}


def _addmm_flops(_: Any, left: Any, right: Any, *rest: Any, **options: Any) -> int:
    return 2 * int(left[0]) * int(left[1]) * int(right[1])


def counted(name: str, m: int, n: int, precision: str, calibration: dict[str, Any] | None) -> int:
    """Operations of the products that torch is asked for."""
    method = METHODS[name]
    generator = torch.Generator().manual_seed(0)
    experts = [torch.randn(m, n, generator=generator) * 0.01 for _ in range(EXPERTS)]
    parameters = {p.name: [p.default] * EXPERTS if p.per_model else p.default for p in method.parameters}
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops}) as counter:
        merge_matrix(TaskDeltas(experts, precision=precision), method, parameters, calibration, [])
    return int(counter.get_total_flops())


@pytest.mark.parametrize("shape", [(256, 256), (192, 512)])
@pytest.mark.parametrize(
    ("name", "calibration"),
    [("task_arithmetic", SVC), ("tsv_m", None), ("iso_c", None), ("iso_cts", None), ("star", None), ("swudi", None)],
)
def test_stated_products_are_those_that_are_made(
    name: str, calibration: dict[str, Any] | None, shape: tuple[int, int]
) -> None:
    m, n = shape
    work = METHODS[name].work(m, n, EXPERTS, "mixed")
    if calibration is not None:
        work += CALIBRATIONS["svc"].work(m, n, EXPERTS, "mixed")
    inside = sum(2.0 * size**3 * count for size, count in work.eigen)  # vectors taken back are products too
    stated = work.float64 + work.float32 + inside
    assert 0.6 < counted(name, m, n, "mixed", calibration) / stated < 1.5


def test_work_adds_up_kind_by_kind() -> None:
    one, other = Work(float64=1, elementwise=2, eigen=((8, 1),)), Work(float64=3, eigen=((8, 2), (4, 1)))
    assert one + other == Work(float64=4, elementwise=2, eigen=((8, 3), (4, 1)))
    assert one * 2 == Work(float64=2, elementwise=4, eigen=((8, 2),))
    assert (one + other).flops == one.flops + other.flops
