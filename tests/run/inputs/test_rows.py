"""Rows by token: mapped where they lie, copied where they do not, means in float64."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from svc_dist.plan.vocabulary.row_maps import RowMaps
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.run.inputs.rows import StoredRows

WIDTH = 3


def views(maps: RowMaps, sources: list[Tensor], first: int, last: int, folder: Path) -> list[Tensor]:
    """Each source's rows, of tensors of which only the rows are there that are asked for."""
    with JoinedViews(str(folder)) as joined:
        rows = StoredRows(maps, first, last, WIDTH, lambda n, low, high: [sources[n].view(-1)[low:high]])
        return [rows.view(number, joined).view(-1, WIDTH) for number in range(len(sources))]


def test_rows_come_from_where_the_maps_say(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, WIDTH, generator=generator).bfloat16()
    one, two = (torch.randn(5, WIDTH, generator=generator) for _ in range(2))
    own = (((0, 0, 4),), ((0, 2, 2), (2, 0, 2), (4, 4, 1)), ((0, 0, 3), (4, 3, 1)))
    maps = RowMaps(8, own, ((3, 1, ((0, 3),)), (4, 1, ((1, 4), (2, 3))), (5, 1, ((2, 4),))), 1)
    found = views(maps, [base, one, two], 0, 8, tmp_path)
    mean, zero = (one[4].double() + two[3].double()) / 2, torch.zeros(WIDTH)
    rows = [
        [*base.float(), mean.float(), two[4], zero],
        [one[2], one[3], one[0], one[1], one[4], two[4], zero],
        [two[0], two[1], two[2], base[3].float(), two[3], two[4], zero],
    ]
    for view, expected in zip(found, rows, strict=True):
        stacked = torch.stack([row.float() for row in expected])
        assert view.dtype == torch.float32
        assert torch.equal(view[:7], stacked)
        assert torch.allclose(view[7], stacked.double().mean(0).float(), atol=1e-7)
    for first, last in ((0, 4), (2, 5), (4, 7), (7, 8)):
        for view, whole in zip(views(maps, [base, one, two], first, last, tmp_path), found, strict=True):
            assert torch.equal(view.float(), whole[first:last])


def test_rows_that_lie_together_are_not_copied(tmp_path: Path) -> None:
    base = torch.arange(12, dtype=torch.bfloat16).view(4, WIDTH)
    maps = RowMaps(3, (((0, 1, 3),),))
    (view,) = views(maps, [base], 0, 3, tmp_path / "unused")
    assert view.dtype == torch.bfloat16
    assert view.data_ptr() == base[1].data_ptr()
    assert not (tmp_path / "unused").exists()
