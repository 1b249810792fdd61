"""Several results of one decomposition: each has the bytes of the result made alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.methods.calibration.svc import svc
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged

ALPHAS = (1 / 3, 0.5, 1.0, 0.1)


def deltas(rows: int, columns: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(rows)
    shared = torch.randn(rows, 3, generator=random) @ torch.randn(3, columns, generator=random)
    return [shared + torch.randn(rows, columns, generator=random) for _ in range(3)]


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_several_alphas_give_what_each_gives_alone(shape: tuple[int, int], side: str) -> None:
    found = TaskDeltas(deltas(*shape))
    total = Merged(found.total())
    together = list(svc(total, found, alpha=ALPHAS, side=side))
    for alpha, result in zip(ALPHAS, together, strict=True):
        (alone,) = svc(total, found, alpha=[alpha], side=side)
        assert torch.equal(result.delta, alone.delta)
        assert torch.equal(result.gamma, alone.gamma)
        assert result.summary == alone.summary
