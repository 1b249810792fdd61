"""The inputs of some elements of a tensor: what is not finite in them is named by file, tensor and element."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import svc_dist
from svc_dist.errors import DamagedInputError
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.recipe.load import load_recipe
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.run.inputs.views import TensorInputs
from svc_dist.storage.reading import ByteRange, Source, map_ranges
from tests.support.adapters import PREFIX, config, write_adapter
from tests.support.checkpoints import write_checkpoint, write_recipe

EXPERTS = "model.layers.0.mlp.experts"


@pytest.mark.parametrize("side", ["lora_A", "lora_B", "lora_magnitude_vector"])
def test_a_damaged_factor_is_named(side: str, tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", {"q.weight": torch.ones(4, 6)}, shards=1)
    tensors = {"lora_A": torch.ones(2, 6), "lora_B": torch.ones(4, 2), "lora_magnitude_vector": torch.ones(4)}
    tensors[side].view(-1)[3] = torch.nan
    stored = {f"{PREFIX}q.{key}" + (".weight" if key[-2] == "_" else ""): value for key, value in tensors.items()}
    adapter = write_adapter(tmp_path / "a", stored, config(use_dora=True))
    with pytest.raises(DamagedInputError, match=rf"adapter_model.safetensors: {side} of tensor 'q.weight' holds nan"):
        svc_dist.merge(write_recipe(tmp_path / "r.yaml", [base, adapter]), tmp_path / "out")


def test_a_damaged_part_of_a_tensor_is_named_by_its_file(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", {f"{EXPERTS}.down_proj": torch.ones(3, 4, 6)}, shards=1)
    single = {f"{EXPERTS}.{number}.down_proj.weight": torch.ones(4, 6) for number in range(3)}
    single[f"{EXPERTS}.1.down_proj.weight"][1, 2] = torch.inf
    expert = write_checkpoint(tmp_path / "a", single, shards=1)
    with pytest.raises(DamagedInputError, match=r"a/model.safetensors: tensor '.*down_proj' holds inf"):
        svc_dist.merge(write_recipe(tmp_path / "r.yaml", [base, expert]), tmp_path / "out")


def test_a_unit_of_a_few_experts_reads_and_changes_only_these(tmp_path: Path) -> None:
    """Units end between experts, some of which no pair of the adapter is for."""
    shape = (5, 4, 6)
    plan, tensor = planned(tmp_path, shape, [1, 3])
    for first, last, changed in ((0, 24, []), (24, 48, [1]), (0, 120, [1, 3]), (48, 72, []), (30, 80, [1, 3])):
        reads = {part for _, part in tensor.reads(first, last) if part.file == "adapter_model.safetensors"}
        assert len(reads) == 2 * len(changed)
        sources = [Source(model.location, model.files) for model in plan.inputs]
        ranges: list[list[ByteRange]] = [[] for _ in sources]
        for number, part in tensor.reads(first, last):
            ranges[number].append(part)
        with map_ranges(sources, ranges) as reading, JoinedViews(None) as joined:
            (change,) = TensorInputs(plan, tensor, first, last, reading.mapped, joined).changes
            assert change is not None
            expected = torch.zeros(5, 24)
            for expert in changed:
                expected[expert] = 2.0 * 2 * (expert + 1)
            assert torch.equal(change.dense(torch.float32, "cpu"), expected.view(-1)[first:last])


def planned(tmp_path: Path, shape: tuple[int, int, int], experts: list[int]) -> tuple[Plan, PlannedTensor]:
    base = write_checkpoint(tmp_path / "base", {f"{EXPERTS}.down_proj": torch.ones(shape)}, shards=1)
    pairs = {}
    for expert in experts:
        pairs[f"{PREFIX}{EXPERTS}.{expert}.down_proj.lora_A.weight"] = torch.ones(2, shape[2])
        pairs[f"{PREFIX}{EXPERTS}.{expert}.down_proj.lora_B.weight"] = torch.full((shape[1], 2), expert + 1.0)
    recipe = write_recipe(tmp_path / "r.yaml", [base, write_adapter(tmp_path / "a", pairs)])
    plan = make_plan(load_recipe(recipe), Settings())
    return plan, plan.tensors[0]
