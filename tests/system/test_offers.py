"""Every rule that a refusal offers, pasted: the merge has what the experts learnt and what only the base has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.errors import PlanError
from tests.support.checkpoints import write_checkpoint, write_recipe

LAYER = "model.layers.{}.mlp.up_proj.weight"
CONFIG = {"model_type": "llama", "hidden_size": 6, "num_hidden_layers": 2}
#: What only the base has.
ONLY_BASE = {
    "a buffer": ("model.layers.0.self_attn.rotary_emb.inv_freq", (3,)),
    "a layer for multi-token prediction": (LAYER.format(2), (4, 6)),
    "a tower": ("vision_tower.patch.weight", (4, 6)),
    "a projector": ("model.mm_projector.weight", (4, 6)),
}


def checkpoints(
    folder: Path, extra: dict[str, tuple[int, ...]], lacks: str = ""
) -> tuple[list[Path], list[dict[str, Tensor]]]:
    """A base with ``extra`` tensors and two experts without them; ``lacks``: what the second expert does not have."""
    generator = torch.Generator().manual_seed(0)
    shapes = {LAYER.format(0): (4, 6), LAYER.format(1): (4, 6), "model.norm.weight": (6,)}
    made = [
        {name: torch.randn(shape, generator=generator) for name, shape in (shapes | more).items()}
        for more in (extra, {}, {})
    ]
    made[2].pop(lacks, None)
    return [write_checkpoint(folder / f"m{n}", one, config=CONFIG) for n, one in enumerate(made)], made


@pytest.mark.parametrize("kind", ONLY_BASE)
def test_a_rule_that_is_offered_makes_a_right_model(kind: str, tmp_path: Path) -> None:
    name, shape = ONLY_BASE[kind]
    paths, made = checkpoints(tmp_path, {name: shape})
    recipe = write_recipe(tmp_path / "r.yaml", paths, parameters={"weight": 0.5})
    with pytest.raises(PlanError) as refused:
        svc_dist.make_plan(recipe)
    assert refused.value.hint is not None
    pasted = yaml.safe_load("\n".join(line.removeprefix("  ") for line in refused.value.hint.splitlines()[1:]))
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | pasted))
    svc_dist.merge(recipe, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written.pop(name), made[0][name])
    for other, tensor in written.items():
        expected = tensor_sum(made, other)
        assert torch.allclose(tensor, expected, atol=1e-6), other
        assert not torch.equal(tensor, made[0][other]), other


def tensor_sum(made: list[dict[str, Tensor]], name: str) -> Tensor:
    base, *experts = (one[name] for one in made)
    return base + 0.5 * sum(expert - base for expert in experts)


@pytest.mark.parametrize("lacks", [LAYER.format(1), "model.norm.weight"])
def test_no_rule_is_offered_that_drops_what_another_expert_learnt(lacks: str, tmp_path: Path) -> None:
    paths, _ = checkpoints(tmp_path, {}, lacks)
    with pytest.raises(PlanError) as refused:
        svc_dist.make_plan(write_recipe(tmp_path / "r.yaml", paths))
    assert "keep: base" not in str(refused.value)
    assert "no rule is offered to paste" in str(refused.value)
