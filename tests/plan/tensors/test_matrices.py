"""What spectral steps see as matrices, and that a model merges to the same whichever way round it stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.cli.texts import plan_lines
from svc_dist.errors import RecipeError
from svc_dist.plan.tensors.matrices import Layouts, matrices
from svc_dist.recipe.load import recipe_from
from svc_dist.tensor_names import EMBEDDING_PATTERNS
from tests.support.checkpoints import recipe_data, write_checkpoint

Shape = tuple[int, ...]
RECIPE = recipe_from({"base_model": "/base", "models": [{"model": "/one"}], "merge_method": "swudi"})


@pytest.mark.parametrize(
    ("name", "shape", "batch"),
    [
        ("model.layers.0.mlp.up_proj.weight", (4, 6), (1, 4, 6)),
        ("model.layers.0.mlp.experts.up_proj", (8, 4, 6), (8, 4, 6)),
        ("model.layers.0.unconventional.experts", (8, 4, 6), (8, 4, 6)),
        ("model.layers.0.mlp.experts.gate_up_proj", (1, 4, 6), (1, 4, 6)),
        ("vision.patch_conv.weight", (8, 3, 2, 2), (1, 8, 12)),
        ("conv1d.weight", (8, 3, 5), (1, 8, 15)),
        ("conv1d.weight", (8, 1, 4), (1, 8, 4)),
        ("transformer_blocks.0.norm1.linear.weight", (12, 4), (1, 12, 4)),
        ("encoder.in_proj_weight", (12, 4), (1, 12, 4)),
        ("visual.proj", (8, 4), (1, 8, 4)),
        ("transformer.layer.0.rel_attn.q", (16, 4, 8), (1, 16, 32)),
        ("model.layers.0.self_attn.query.weight", (4, 4), (1, 4, 4)),
        ("model.layers.0.attention.linear_pos.weight", (4, 4), (1, 4, 4)),
    ],
)
def test_weights_are_matrices(name: str, shape: Shape, batch: Shape) -> None:
    assert matrices(TensorSpec(name, "F32", shape, "f", 0, 0), EMBEDDING_PATTERNS) == batch


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.norm.weight", (4,)),
        ("logit_scale", ()),
        ("model.layers.0.mlp.empty", (0, 6)),
        ("model.embed_tokens.weight", (4, 6)),
        ("transformer.wte.weight", (4, 6)),
        ("lm_head.weight", (4, 6)),
        ("classifier.weight", (4, 6)),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", (4, 16)),
        ("model.layers.0.mlp.experts.down_proj_bias", (4, 8)),
        ("final_logits_bias", (1, 50)),
        ("model.layers.0.mlp.gate.e_score_correction_bias", (2, 8)),
        ("encoder.layers.0.self_attn.pos_bias_u", (4, 16)),
        ("swin.layers.0.attention.self.relative_position_bias_table", (49, 4)),
        ("transformer.layer.0.rel_attn.r_w_bias", (4, 16)),
        ("blocks.0.attn.rel_pos_h", (27, 64)),
        ("backbone.layers.0.mixer.A_log", (32, 16)),
        ("model.layers.0.mamba.D", (4, 8)),
        ("model.layers.0.self_attn.A_log", (1, 1, 4, 1)),
        ("model.layers.0.self_attn.q_norm.weight", (64, 128)),
        ("model.layers.0.input_layernorm.weight", (2, 8)),
        ("bert.encoder.layer.0.output.LayerNorm.gamma", (2, 8)),
        ("vision_model.head.probe", (1, 1, 16)),
        ("vision_model.position", (1, 49, 16)),
        ("query_tokens", (1, 32, 16)),
        ("resampler.latents", (64, 16)),
        ("blocks.0.scale_shift_table", (6, 16)),
        ("rwkv.blocks.0.attention.time_faaaa", (4, 16)),
        ("layers.0.logit_scale", (4, 1, 1)),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 16)),
        ("adapter.scale.weight", (16, 1)),
    ],
)
def test_vectors_and_tables_are_not(name: str, shape: Shape) -> None:
    assert matrices(TensorSpec(name, "F32", shape, "f", 0, 0), EMBEDDING_PATTERNS) is None


def layouts(shapes: Mapping[str, Shape], config: dict[str, Any] | None = None) -> dict[str, str | None]:
    specs = {name: TensorSpec(name, "F32", shape, "f", 0, 0) for name, shape in shapes.items()}
    found = Layouts(Checkpoint("/base", (), specs, config), RECIPE)
    return {name: found.stored(spec) for name, spec in specs.items() if len(spec.shape) > 1 and "bias" not in name}


GPT2 = {
    "transformer.h.0.attn.c_attn.weight": (16, 48), "transformer.h.0.attn.c_proj.weight": (16, 16),
    "transformer.h.0.mlp.c_fc.weight": (16, 64), "transformer.h.0.mlp.c_proj.weight": (64, 16),
}  # fmt: skip
LINEAR = {name: shape[::-1] for name, shape in GPT2.items()}
BIASES = {name.replace("weight", "bias"): shape[1:] for name, shape in GPT2.items()}
EXPERTS = {"model.layers.0.mlp.experts.gate_up_proj": (4, 16, 48), "model.layers.0.mlp.experts.down_proj": (4, 24, 16)}
SQUARE = {"model.layers.0.mlp.experts.gate_up_proj": (4, 16, 32), "model.layers.0.mlp.experts.down_proj": (4, 16, 16)}


@pytest.mark.parametrize(
    ("shapes", "config", "expected"),
    [
        (GPT2, {"model_type": "gpt2"}, "in_out"),
        (GPT2, {"architectures": ["GPT2DoubleHeadsModel"]}, "in_out"),
        (GPT2, {"decoder": {"model_type": "gpt2"}, "encoder": {"model_type": "vit"}}, "in_out"),
        (GPT2 | BIASES, {"model_type": "something new"}, "in_out"),
        (GPT2, None, "in_out"),
        (LINEAR, {"model_type": "gpt_bigcode"}, "out_in"),
        (LINEAR | BIASES, {"model_type": "gpt2"}, "out_in"),
        (LINEAR, None, "out_in"),
        ({"lin.kernel": (16, 8), "visual.proj": (8, 16), "layer.0.rel_attn.v": (16, 4, 8)}, None, "in_out"),
        ({"ffn.experts.mlp.w2": (32, 8)}, {"model_type": "dbrx"}, "in_out"),
        ({"ffn.experts.mlp.w1": (32, 8), "layer.0.rel_attn.o": (16, 4, 8)}, {"model_type": "dbrx"}, "out_in"),
        ({"a.up.weight": (8, 16), "a.up.bias": (16,)}, None, "in_out"),
        ({"a.up.weight": (16, 8), "a.up.bias": (16,), "b.weight": (16, 8)}, None, "out_in"),
        (EXPERTS, None, "in_out"),
        ({name: (e, n, m) for name, (e, m, n) in EXPERTS.items()}, {"model_type": "gpt_oss"}, "out_in"),
        (SQUARE, None, "in_out"),
        ({name: (e, n, m) for name, (e, m, n) in SQUARE.items()}, None, "out_in"),
        ({"layers.0.experts.up_proj": (4, 8, 8)}, {"model_type": "llama4_text"}, "in_out"),
        ({"layers.0.experts.up_proj": (4, 8, 8)}, {"text_config": {"architectures": ["GptOssForCausalLM"]}}, "in_out"),
        ({"layers.0.experts.gate_up_proj": (4, 8, 6), "layers.0.experts.gate_up_proj_bias": (4, 8)}, None, "out_in"),
        ({"layers.0.experts.gate_up_proj": (4, 8, 6), "layers.0.experts.gate_up_proj_bias": (4, 6)}, None, "in_out"),
        ({"layers.0.experts.fc1.weight": (4, 8, 24), "layers.0.experts.fc2.weight": (4, 12, 8)}, None, "in_out"),
        ({"layers.0.mlp.input_linear.weight": (4, 24, 8), "layers.0.mlp.output_linear.weight": (4, 8, 12)}, None,
         "out_in"),
        ({"layers.0.experts.up_proj": (4, 8, 8)}, {"model_type": "mixtral"}, None),
        ({"layers.0.mixture": (4, 8, 6)}, None, None),
    ],
)  # fmt: skip
def test_which_way_round_matrices_are_stored(
    shapes: dict[str, Shape], config: dict[str, Any] | None, expected: str | None
) -> None:
    assert set(layouts(shapes, config).values()) == {expected}


#: Choices that tell outputs from inputs, and some that do not, each for one layer of a model.
CHOICES: list[dict[str, Any]] = [
    {"merge_method": "swudi"},
    {"merge_method": "swudi", "parameters": {"init": "mean"}, "calibrate": {"method": "svc", "alpha": 0.1}},
    {"merge_method": "swudi_a"},
    {"merge_method": "wudi", "parameters": {"steps": 5}},
    {"merge_method": "optmerge", "parameters": {"steps": 5}},
    {"merge_method": "iso_cts"},
    {"merge_method": "iso_cts", "calibrate": {"method": "svc", "alpha": 0.2}},
    {"merge_method": "tsv_m"},
    {"merge_method": "tsv_m", "calibrate": {"method": "svc", "alpha": 0.2}},
    {"merge_method": "task_arithmetic", "calibrate": {"method": "svc", "alpha": 0.1}},
    {"merge_method": "task_arithmetic", "calibrate": {"method": "svc", "alpha": 0.1, "side": "right"}},
    {"merge_method": "ties", "parameters": {"density": 0.5}, "calibrate": {"method": "svc", "alpha": 0.1}},
    {"merge_method": "della", "parameters": {"density": 0.6, "epsilon": 0.3}},
    {"merge_method": "della_linear", "parameters": {"density": 0.5}, "calibrate": {"method": "svc", "alpha": 0.1}},
]


def write_models(folder: Path, turn: bool, fused: bool) -> list[Path]:
    """A base and two experts with a weight for each choice: of GPT-2's names, or fused experts."""
    place = folder / f"{turn}-{fused}"
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(3 if fused else 1, 24, 16, generator=generator) for _ in CHOICES]
    models = []
    for name in ("base", "a", "b"):
        tensors: dict[str, Tensor] = {}
        for number, weight in enumerate(start):
            if name != "base":
                weight = weight + 0.02 * torch.randn(weight.shape, generator=generator) * (1 + number % 3)
            stored = weight.mT if turn else weight
            if fused:
                tensors[f"model.layers.{number}.mlp.experts.gate_up_proj"] = stored
            else:
                tensors[f"transformer.h.{number}.mlp.c_fc.weight"] = stored[0]
        config = {"model_type": ("gpt_oss" if fused else "gpt2") if turn else "llama"}
        models.append(write_checkpoint(place / name, tensors, config=config))
    return models


@pytest.mark.parametrize("fused", [False, True])
def test_a_model_merges_to_the_same_in_both_layouts(tmp_path: Path, fused: bool) -> None:
    merged = []
    for turn in (False, True):
        rules = [{"match": f"*.{number}.mlp.*", **choice} for number, choice in enumerate(CHOICES)]
        if fused and not turn:
            rules = [{**rule, "stored": "out_in"} for rule in rules]
        paths = write_models(tmp_path, turn, fused)
        recipe = recipe_data(paths, rules=rules)
        svc_dist.merge(recipe, tmp_path / f"out-{turn}", executor="inline")
        start, end = (load_all(path) for path in (paths[0], tmp_path / f"out-{turn}"))
        merged.append({name: (end[name] - start[name]).mT if turn else end[name] - start[name] for name in end})
    for name, plain in merged[0].items():
        apart = float((plain - merged[1][name]).norm() / plain.norm())
        assert apart < 2e-5, (name, CHOICES[int(name.split(".")[2])])


def load_all(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_results_with_and_without_a_calibration_are_those_of_their_own_merges(tmp_path: Path) -> None:
    paths = write_models(tmp_path, turn=True, fused=False)
    outputs = [{"path": "plain"}, {"path": "calibrated", "calibrate": {"method": "svc", "alpha": 0.1}}]
    for method in ("task_arithmetic", "tsv_m"):
        together = tmp_path / f"{method}-together"
        svc_dist.merge(recipe_data(paths, method, outputs=outputs), together, executor="inline")
        for output in outputs:
            keys = {key: value for key, value in output.items() if key != "path"}
            alone = tmp_path / f"{method}-{output['path']}"
            svc_dist.merge(recipe_data(paths, method, **keys), alone, executor="inline")
            one, other = load_all(together / str(output["path"])), load_all(alone)
            assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_rule_says_which_way_round_and_the_plan_shows_it(tmp_path: Path) -> None:
    name = "model.layers.0.mixture"
    models = [
        write_checkpoint(tmp_path / str(n), {name: torch.randn(2, 8, 6), "a.weight": torch.randn(8, 6)})
        for n in range(2)
    ]
    plan = svc_dist.make_plan(recipe_data(models, "swudi"))
    (warning,) = plan.warnings
    assert f"1 tensor like {name} [2, 8, 6]" in warning
    assert "stored: in_out" in warning
    for stored, batch in (("in_out", (2, 6, 8)), ("out_in", (2, 8, 6))):
        plan = svc_dist.make_plan(recipe_data(models, "swudi", rules=[{"match": name, "stored": stored}]))
        assert not plan.warnings
        assert {tensor.name: tensor.batch for tensor in plan.tensors}[name] == batch
        assert any("turned: stored (in, out)" in line for line in plan_lines(plan)) == (stored == "in_out")
    assert not svc_dist.make_plan(recipe_data(models, "tsv_m")).warnings  # the same in both layouts
    with pytest.raises(RecipeError, match="keep takes no other key"):
        svc_dist.make_plan(recipe_data(models, rules=[{"match": name, "keep": "base", "stored": "in_out"}]))


def test_the_report_says_what_was_turned(tmp_path: Path) -> None:
    paths = write_models(tmp_path, turn=True, fused=False)
    svc_dist.merge(recipe_data(paths, "iso_cts"), tmp_path / "out", executor="inline")
    report = json.loads((tmp_path / "out/merge_report.json").read_text())
    assert {one["reason"] for one in report["dispositions"]} == {"the recipe, turned: stored (in, out)"}
