"""Two stored tensors compared: a sample finds the first and the last bytes, and ranges between; or all bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.plan.tensors.copies import same_bytes, same_sample
from svc_dist.storage.reading import Source
from tests.support.checkpoints import write_checkpoint

LONG = 300_000


@pytest.mark.parametrize(
    ("length", "changed", "sampled"), [(10, 9, False), (LONG, 0, False), (LONG, LONG - 1, False), (LONG, 2000, True)]
)
def test_a_sample_can_miss_what_the_whole_comparison_finds(
    length: int, changed: int, sampled: bool, tmp_path: Path
) -> None:
    one = torch.arange(length, dtype=torch.float32)
    other = one.clone()
    other[changed] += 1
    tensors = {"one": one, "same": one.clone(), "other": other, "short": one[1:].clone(), "half": one.half()}
    model = open_checkpoint(str(write_checkpoint(tmp_path, tensors)))
    source, specs = Source(model.location, model.files), model.tensors
    assert same_sample(source, specs["one"], specs["same"])
    assert same_bytes(source, specs["one"], specs["same"])
    assert same_sample(source, specs["one"], specs["other"]) is sampled
    assert not same_bytes(source, specs["one"], specs["other"])
    for name in ("short", "half"):
        assert not same_sample(source, specs["one"], specs[name])
        assert not same_bytes(source, specs["one"], specs[name])
