"""Parts laid one after the other in scratch space that disappears with the last view."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from svc_dist.run.inputs.joined import JoinedViews


def test_parts_become_one_view_after_the_other(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    parts = [torch.arange(count, dtype=torch.bfloat16) for count in (3, 0, 2500)]
    with JoinedViews(str(scratch)) as joined:
        one = joined.view(parts, 2503, "BF16")
        other = joined.view(iter(parts[::-1]), 2503, "BF16")
    assert torch.equal(one, torch.cat(parts))
    assert torch.equal(other, torch.cat(parts[::-1]))
    assert list(scratch.iterdir()) == [], "the file has no name any more"
    del one, other
    gc.collect()


def test_nothing_takes_no_space(tmp_path: Path) -> None:
    with JoinedViews(str(tmp_path / "scratch")) as joined:
        assert joined.view([], 0, "F32").numel() == 0
    assert not (tmp_path / "scratch").exists()


def test_parts_of_another_dtype_are_widened(tmp_path: Path) -> None:
    parts = [torch.arange(3, dtype=torch.bfloat16), torch.arange(4, dtype=torch.float64) / 3]
    with JoinedViews(str(tmp_path)) as joined:
        found = joined.view(parts, 7, "F32")
    assert torch.equal(found, torch.cat([part.float() for part in parts]))
