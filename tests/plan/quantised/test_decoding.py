"""Elements of a tensor in codes are decoded alike, whichever of them are asked for and whatever lies between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.errors import DamagedInputError
from svc_dist.plan.inputs import InputRange, stored_range
from svc_dist.plan.quantised import decoding
from svc_dist.plan.quantised.decoding import decoded_values
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.reading import Source, map_ranges
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import FAMILIES, encoded, tensors_of, write_quantised

NAME = "model.layers.0.q_proj.weight"


def values(slot: InputRange, first: int, last: int, source: Source) -> torch.Tensor:
    with map_ranges([source], [list(slot.reads(first, last))]) as inputs:
        return torch.cat([one.clone() for one in decoded_values(slot, first, last, inputs.mapped[0], "here")])


def opened(folder: Path) -> tuple[InputRange, Source]:
    model = decoded_checkpoint(open_checkpoint(str(folder)), DEFAULT_ACCESS)
    name = next(name for name, spec in model.tensors.items() if spec.codec is not None)
    spec = model.tensors[name]
    return stored_range(0, spec, spec.numel).decoded_to("F32"), Source(str(folder), model.files, DEFAULT_ACCESS)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_rows_are_decoded_as_in_the_whole(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "CHUNK", 200)  # so that a few rows are a slab
    tensors = tensors_of(1, {NAME: (70, 64), "model.norm.weight": (64,)})
    whole = write_quantised(tmp_path, tensors, FAMILIES[family])[NAME]
    slot, source = opened(tmp_path)
    assert torch.equal(values(slot, 0, 70 * 64, source), whole.view(-1))
    for first, last in ((0, 64), (16 * 64, 33 * 64), (64, 69 * 64), (100, 4000)):
        assert torch.equal(values(slot, first, last, source), whole.view(-1)[first:last])
    narrow = values(slot.decoded_to("BF16"), 64, 640, source)
    assert torch.equal(narrow, whole.view(-1)[64:640].bfloat16())
    assert slot.grain % 64 == 0


def test_fused_experts_are_turned(tmp_path: Path) -> None:
    from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp

    codec = Mxfp((6, 64), "openai", 4, "_blocks", "_scales", blocked=True)
    each = [encoded(weight, codec) for weight in tensors_of(2, {str(n): (6, 64) for n in range(3)}).values()]
    stored = {f"experts.gate_up_proj{suffix}": torch.stack([one[suffix] for one in each]) for suffix in each[0]}
    write_checkpoint(tmp_path, {**stored, "router.weight": torch.ones(3, 64)}, shards=1)
    slot, source = opened(tmp_path)
    whole = torch.stack([codec.decode(one).T for one in each]).reshape(-1)
    assert torch.equal(values(slot, 0, 3 * 6 * 64, source), whole)
    assert torch.equal(values(slot, 384, 768, source), whole[384:768])
    assert slot.grain == 384


def test_a_shape_that_contradicts_its_codes_is_named(tmp_path: Path) -> None:
    tensors = tensors_of(3, {NAME: (8, 64)})
    write_quantised(tmp_path, tensors, FAMILIES["int4"])
    from safetensors.torch import load_file, save_file

    for file in tmp_path.glob("*.safetensors"):
        stored = load_file(file)
        for name in stored:
            if name.endswith("weight_shape"):
                stored[name] = torch.tensor([64, 8])
        save_file(stored, file)
    slot, source = opened(tmp_path)
    with pytest.raises(DamagedInputError, match=r"here: its weight_shape is \[64, 8\]"):
        values(slot, 0, 512, source)
