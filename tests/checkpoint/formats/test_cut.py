"""Single experts cut out of fused ones in codes are decoded as the rows of those that they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from svc_dist.checkpoint.checkpoint import Checkpoint, open_checkpoint
from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.fp8_scaled import Fp8Scaled
from svc_dist.checkpoint.formats.cut import rows_of
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.checkpoint.fused_experts import in_layout_of
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.plan.inputs import stored_range
from svc_dist.run.inputs.whole import Block
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.reading import Source
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import encoded, tensors_of

LAYER = "model.layers.0.mlp.experts"
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 32]}}
CODECS: dict[str, Codec] = {
    "blocks": Fp8Block((64, 64), "transformers", (16, 32), "_scale_inv", codes=""),
    "rows": Fp8Scaled((64, 64), "compressed-tensors", (64, 1), "_scale", codes=""),
    "columns": Fp8Scaled((64, 64), "compressed-tensors", (1, 64), "_scale", codes=""),
}


def fused(folder: Path, codec: Codec) -> tuple[Checkpoint, Tensor]:
    weights = tensors_of(0, {"w": (3, 64, 64)})["w"]
    largest = weights.float().abs().amax(1)
    by_column = codec.of_the_whole and codec.parts[1].shape == (1, 64)
    each = [
        codec.encode(one, codec.whole(largest[number], one.dtype)) if by_column else encoded(one, codec)
        for number, one in enumerate(weights)
    ]
    name = f"{LAYER}.gate_up_proj"
    stored = {name + suffix: torch.stack([one[suffix] for one in each]) for suffix in each[0]}
    write_checkpoint(folder, {**stored, "norm.weight": torch.ones(64)}, config=FP8)
    model = decoded_checkpoint(open_checkpoint(str(folder)), DEFAULT_ACCESS)
    return model, torch.stack([codec.decode(one) for one in each])


def values(model: Checkpoint, spec: TensorSpec) -> Tensor:
    block = Block(stored_range(0, spec).decoded_to("F32"), 0, spec.numel, spec.name)
    with Source(model.location, model.files).map(block.ranges) as mapped:
        return block.values(mapped).view(spec.shape)


@pytest.mark.parametrize("kind", CODECS)
def test_experts_in_codes_take_the_layout_of_a_base_of_single_ones(kind: str, tmp_path: Path) -> None:
    model, decoded = fused(tmp_path / "fused", CODECS[kind])
    single = {f"{LAYER}.{e}.{part}_proj.weight": (32, 64) for e in range(3) for part in ("gate", "up")}
    write_checkpoint(tmp_path / "single", {**tensors_of(1, single), "norm.weight": torch.ones(64)})
    changed = in_layout_of(model, open_checkpoint(str(tmp_path / "single")))
    assert set(changed.tensors) == {*single, "norm.weight"}
    for name in single:
        expert, top = int(name.split(".")[5]), 0 if ".gate_proj." in name else 32
        assert torch.equal(values(model, changed.tensors[name]), decoded[expert, top : top + 32])


def test_rows_that_cut_a_block_are_no_tensor_of_their_own(tmp_path: Path) -> None:
    model, decoded = fused(tmp_path, CODECS["blocks"])
    stack = model.tensors[f"{LAYER}.gate_up_proj"]
    assert rows_of(stack, "w", 1, 8, 16) is None
    assert rows_of(stack, "w", 1, 16, 8) is None
    last = rows_of(stack, "w", 2, 48, 16)
    assert last is not None
    assert torch.equal(values(model, last), decoded[2, 48:])
