"""Whole tensors in blocks: all values once, in order, whether they are stored as they are or in codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.plan.inputs import stored_range
from svc_dist.run.inputs.whole import Block, cuts
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.reading import Source
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import FAMILIES, gpt_oss_experts, tensors_of, write_quantised

NAME = "down_proj.weight"


@pytest.mark.parametrize("most", [64, 3000, 1 << 20])
@pytest.mark.parametrize("family", ["fp8 blocks", "int4 with zero points", None])
def test_blocks_together_are_the_tensor(tmp_path: Path, family: str | None, most: int) -> None:
    if family is None:
        stored, decoded = gpt_oss_experts("w", tensors_of(0, {"w": (3, 64, 6)})["w"])
        write_checkpoint(tmp_path, stored)
    else:
        decoded = write_quantised(tmp_path, tensors_of(0, {NAME: (70, 64)}), FAMILIES[family])[NAME]
    model = decoded_checkpoint(open_checkpoint(str(tmp_path)), DEFAULT_ACCESS)
    (spec,) = model.tensors.values()
    slot = stored_range(0, spec).decoded_to("F32")
    source, read, values = Source(model.location, model.files), 0, []
    for first, last in cuts([slot], most):
        block = Block(slot, first, last, "w")
        with source.map(block.ranges) as mapped:
            values.append(block.values(mapped).clone())
            read += sum(one.end - one.start for one in block.ranges)
            assert block.same_bytes(mapped, block, mapped)
    assert torch.equal(torch.cat(values).view(spec.shape), decoded.float())
    codes = sum(part.nbytes for part in spec.parts[:1])
    assert read < 1.2 * codes + 2048  # no code twice


def test_an_empty_tensor_has_no_blocks(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"w": torch.empty(0, 4)})
    (spec,) = open_checkpoint(str(tmp_path)).tensors.values()
    assert not list(cuts([stored_range(0, spec)], 8))
