"""Whether a model uses the lowest of its whole numbers decides by what scales are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import svc_dist
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.checks.verify import verify
from tests.plan.quantised.test_decoded import recipe
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import FAMILIES, Family, tensors_of, write_quantised

NAME = "model.layers.0.mlp.down_proj.weight"
SYMMETRIC = Family(
    lambda shape: PackedIntegers(shape, "compressed-tensors", symmetric_range=True), FAMILIES["int4"].config
)


@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_are_found_as_the_base_shows(symmetric: bool, tmp_path: Path) -> None:
    tensors = tensors_of(0, {NAME: (64, 256), "model.norm.weight": (64,)})
    decoded = write_quantised(tmp_path / "base", tensors, SYMMETRIC if symmetric else FAMILIES["int4"])
    changed = {name: one.bfloat16() for name, one in decoded.items()}
    changed[NAME] = (2 * decoded[NAME]).bfloat16()
    write_checkpoint(tmp_path / "e", changed)
    data = recipe([str(tmp_path / "base"), str(tmp_path / "e")])
    (tensor,) = [one for one in svc_dist.make_plan(data).tensors if one.name == NAME]
    codec = codec_of(tensor.codec or "")
    assert isinstance(codec, PackedIntegers)
    assert codec.symmetric_range is symmetric
    svc_dist.merge(data, tmp_path / "out", executor="inline")  # 1.5 times the base
    result = load_file(tmp_path / "out/model.safetensors")
    assert not verify(str(tmp_path / "out"), deep=True).problems
    stem = NAME.removesuffix(".weight")
    values = codec.decode({part.suffix: result[stem + part.suffix] for part in codec.parts})
    exact = torch.allclose(values, 1.5 * decoded[NAME], rtol=2**-7)
    assert exact is symmetric  # the other divisor changes every group on each pass
