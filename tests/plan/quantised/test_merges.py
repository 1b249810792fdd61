"""A merge of quantised models is the merge of the models that they stand for, byte for byte, whatever the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.errors import NumericsError
from tests.support.adapters import config, lora, write_adapter
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import FAMILIES, gpt_oss_experts, tensors_of, write_quantised

SHAPES: dict[str, Any] = {
    "model.embed_tokens.weight": (50, 64),
    "model.layers.0.self_attn.q_proj.weight": (48, 64),
    "model.layers.0.mlp.down_proj.weight": (64, 96),
    "model.layers.0.input_layernorm.weight": (64,),
}
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear"},
    "ties": {"merge_method": "ties", "parameters": {"density": 0.5}},
    "dare": {"merge_method": "dare_ties", "parameters": {"density": 0.5}},
    "svc": {"merge_method": "task_arithmetic", "calibrate": "svc"},
    "swudi": {"merge_method": "swudi"},
}


def fine_tunes(shapes: dict[str, Any], experts: int) -> list[dict[str, Tensor]]:
    base = tensors_of(0, shapes)
    own = [tensors_of(number + 1, shapes, 0.02) for number in range(experts)]
    return [base, *({n: (t.float() + one[n].float()).bfloat16() for n, t in base.items()} for one in own)]


def write_models(
    folder: Path, families: list[str | None], shapes: dict[str, Any] = SHAPES
) -> tuple[list[Path], list[Path]]:
    """A base and experts, each of a family or in bfloat16, and the same models as plain weights.

    Codes become float32, beside models of 16 bits bfloat16.
    """
    narrow = None in families
    stored, plain = [], []
    for number, (tensors, family) in enumerate(zip(fine_tunes(shapes, len(families) - 1), families, strict=True)):
        stored.append(folder / f"m{number}")
        plain.append(folder / f"p{number}")
        decoded = dict(tensors)
        if family is None:
            write_checkpoint(stored[-1], tensors, config={"architectures": ["LlamaForCausalLM"]})
        else:
            decoded = write_quantised(stored[-1], tensors, FAMILIES[family])
        kept = {n: t if narrow or not n.endswith("_proj.weight") else decoded[n].float() for n, t in tensors.items()}
        if narrow:
            kept = {name: decoded[name].bfloat16() for name in tensors}
        write_checkpoint(plain[-1], kept, config={"architectures": ["LlamaForCausalLM"]})
    return stored, plain


def recipe(models: list[Path], **more: Any) -> dict[str, Any]:
    return {"base_model": str(models[0]), "models": [{"model": str(one)} for one in models[1:]], **more}


def weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model, or of several results by their path."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        path = "" if file.parent == folder else f"{file.parent.name}/"
        found |= {f"{path}{name}": one for name, one in load_file(file).items()}
    return found


def require_equal(folder: Path, stored: list[Path], plain: list[Path], **more: Any) -> dict[str, Tensor]:
    """The merge of models in codes, which is that of the plain ones."""
    svc_dist.merge(recipe(stored, **more, quantization="none"), folder / "out", executor="inline")
    svc_dist.merge(recipe(plain, **more, dtype="bfloat16"), folder / "plain", executor="inline")
    result, right = weights(folder / "out"), weights(folder / "plain")
    assert set(result) == set(right)
    assert all(torch.equal(one, right[name]) and one.dtype == right[name].dtype for name, one in result.items())
    for one in more.get("outputs", [{"path": ""}]):
        assert not verify(str(folder / "out" / one["path"]), deep=True).problems
    return result


@pytest.mark.parametrize("method", METHODS)
def test_every_method_sees_decoded_weights(method: str, tmp_path: Path) -> None:
    stored, plain = write_models(tmp_path, ["fp8 blocks", "fp8 blocks", "int4"])
    require_equal(tmp_path, stored, plain, **METHODS[method])


@pytest.mark.parametrize(
    "families",
    [
        ["fp8 blocks", "fp8 blocks, powers of two", "fp8 blocks, bfloat16 scales"],
        ["nvfp4", "mxfp4", "fp8 channels"],
        ["fp8 blocks", None, None],
        [None, "fp8 blocks", "fp8 blocks, powers of two"],
    ],
)
def test_models_may_be_stored_in_different_ways(families: list[str | None], tmp_path: Path) -> None:
    stored, plain = write_models(tmp_path, families)
    require_equal(tmp_path, stored, plain, **METHODS["svc"])


def test_several_results(tmp_path: Path) -> None:
    stored, plain = write_models(tmp_path, ["fp8 blocks", "fp8 blocks", None])
    outputs = [{"path": "half", "lambda": 0.5}, {"path": "whole", "lambda": 1.0}]
    result = require_equal(tmp_path, stored, plain, **METHODS["svc"], outputs=outputs)
    assert not torch.equal(*(result[f"{one['path']}/model.layers.0.mlp.down_proj.weight"] for one in outputs))


def test_an_adapter_to_a_quantised_base(tmp_path: Path) -> None:
    stored, plain = write_models(tmp_path, ["fp8 blocks", "fp8 blocks"])
    modules = {name.removesuffix(".weight"): SHAPES[name] for name in SHAPES if name.endswith("q_proj.weight")}
    adapter = write_adapter(tmp_path / "adapter", lora(modules), config())
    require_equal(tmp_path, [*stored, adapter], [*plain, adapter], **METHODS["svc"])
    alone = {"merge_method": "task_arithmetic"}
    require_equal(tmp_path / "alone", [stored[0], adapter], [plain[0], adapter], **alone)


def test_experts_of_gpt_oss(tmp_path: Path) -> None:
    """Codes of the transposes, beside experts in bfloat16 under the names of the weights."""
    name, shapes = "model.layers.0.mlp.experts.down_proj", {"model.norm.weight": (64,)}
    stored, plain = [], []
    for number, weight in enumerate(fine_tunes({name: (3, 64, 64), **shapes}, 2)):
        codes, decoded = gpt_oss_experts(name, weight.pop(name))
        stored.append(tmp_path / f"m{number}")
        plain.append(tmp_path / f"p{number}")
        write_checkpoint(plain[-1], {**weight, name: decoded.bfloat16()}, config={"model_type": "gpt_oss"})
        coded = {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}
        write_checkpoint(stored[-1], {**weight, **codes}, config=coded)
    stored[2] = plain[2]
    assert set(require_equal(tmp_path, stored, plain, **METHODS["svc"])) == {name, *shapes}


@pytest.mark.parametrize("fused", [0, 1])
def test_fused_experts_beside_single_ones_in_codes(fused: int, tmp_path: Path) -> None:
    """The base or the expert is fused and in bfloat16, the other has an FP8 tensor for each expert."""
    layer = "model.layers.0.mlp.experts"
    shapes = {f"{layer}.{e}.{part}_proj.weight": (32, 64) for e in range(2) for part in ("gate", "up")}
    shapes |= {f"{layer}.{e}.down_proj.weight": (64, 32) for e in range(2)}
    shapes |= {"model.norm.weight": (64,), "model.layers.0.mlp.gate.weight": (2, 64)}
    stored, plain = write_models(tmp_path, ["fp8 blocks", None] if fused else [None, "fp8 blocks"], shapes)
    for models in (stored, plain):
        single = weights(models[fused])
        both = [torch.cat([single[f"{layer}.{e}.{part}_proj.weight"] for part in ("gate", "up")]) for e in range(2)]
        down = torch.stack([single[f"{layer}.{e}.down_proj.weight"] for e in range(2)])
        kept = {name: one for name, one in single.items() if not name.startswith(f"{layer}.")}
        models[fused] = tmp_path / f"{models[fused].name}-fused"
        together = {**kept, f"{layer}.gate_up_proj": torch.stack(both), f"{layer}.down_proj": down}
        write_checkpoint(models[fused], together, config={"architectures": ["Qwen3MoeForCausalLM"]})
    require_equal(tmp_path, stored, plain, merge_method="task_arithmetic")


def test_a_resumed_merge_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from svc_dist.run import unit

    more: dict[str, Any] = {**METHODS["svc"], "max_shard_size": "8KB"}
    stored, plain = write_models(tmp_path, ["fp8 blocks", "int4", "fp8 channels"])
    right = require_equal(tmp_path / "whole", stored, plain, **more)
    run_unit, done = unit.run_unit, []

    def stopped(*arguments: Any, **more: Any) -> Any:
        if len(done) == 2:
            raise NumericsError("stopped")
        done.append(arguments)
        return run_unit(*arguments, **more)

    monkeypatch.setattr(unit, "run_unit", stopped)
    more["quantization"] = "none"
    with pytest.raises(svc_dist.SvcDistError):
        svc_dist.merge(recipe(stored, **more), tmp_path / "out", executor="inline", slots=1)
    monkeypatch.setattr(unit, "run_unit", run_unit)
    svc_dist.merge(recipe(stored, **more), tmp_path / "out", executor="inline")
    assert len(done) == 2
    assert all(torch.equal(one, right[name]) for name, one in weights(tmp_path / "out").items())
