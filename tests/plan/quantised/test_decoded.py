"""Quantised models are planned and merged by the weights that their codes stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.errors import DamagedInputError
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import FAMILIES, tensors_of, write_quantised

SHAPES: dict[str, Any] = {
    "model.embed_tokens.weight": (50, 64),
    "model.layers.0.self_attn.q_proj.weight": (70, 64),
    "model.layers.0.mlp.down_proj.weight": (64, 96),
    "model.layers.0.input_layernorm.weight": (64,),
}


def models(
    folder: Path, base: str | None, experts: list[str | None]
) -> tuple[list[str], list[dict[str, torch.Tensor]]]:
    """A base and experts, each of a family or, with None, in bfloat16: their folders and what they stand for."""
    tensors = tensors_of(0, SHAPES)
    names, decoded = [], []
    for number, family in enumerate([base, *experts]):
        own = tensors_of(number, SHAPES, 0.01)
        changed = (
            tensors
            if not number
            else {name: (one.float() + own[name].float()).bfloat16() for name, one in tensors.items()}
        )
        names.append(str(folder / f"m{number}"))
        if family is None:
            write_checkpoint(Path(names[-1]), changed, config={"architectures": ["LlamaForCausalLM"]})
            decoded.append({name: one.float() for name, one in changed.items()})
        else:
            decoded.append(write_quantised(Path(names[-1]), changed, FAMILIES[family]))
    return names, decoded


def recipe(names: list[str], **more: Any) -> dict[str, Any]:
    experts = [{"model": name, "parameters": {"weight": 0.5}} for name in names[1:]]
    return {"base_model": names[0], "models": experts, "merge_method": "task_arithmetic", **more}


def merged(tmp_path: Path, names: list[str], **more: Any) -> dict[str, torch.Tensor]:
    svc_dist.merge(recipe(names, **more), tmp_path / "out", executor="inline")
    return load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_models_are_merged_as_their_decoded_ones(family: str, tmp_path: Path) -> None:
    names, (base, *experts) = models(tmp_path, family, [family, family])
    result = merged(tmp_path, names, quantization="none")
    assert set(result) == set(SHAPES)
    for name, value in result.items():
        right = base[name].double() + sum(0.5 * (one[name].double() - base[name].double()) for one in experts)
        assert value.dtype == torch.bfloat16
        assert torch.allclose(value.double(), right, rtol=2**-8, atol=1e-9)
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()
    assert verify(str(tmp_path / "out")).ok


@pytest.mark.parametrize("base", ["fp8 blocks", None])
@pytest.mark.parametrize("expert", ["fp8 channels", None])
def test_formats_may_differ(base: str | None, expert: str | None, tmp_path: Path) -> None:
    """Beside a model in bfloat16, codes are decoded to bfloat16: it was trained from those weights."""
    names, decoded = models(tmp_path, base, [None, expert])
    result = merged(tmp_path, names, **({} if base is None else {"quantization": "none"}))
    for name, value in result.items():
        start, *experts = (one[name].bfloat16().float() for one in decoded)
        right = start + 0.5 * (experts[0] - start) + 0.5 * (experts[1] - start)
        assert torch.equal(value, right.bfloat16())


def test_what_an_expert_did_not_change_is_the_base_s(tmp_path: Path) -> None:
    tensors = tensors_of(0, SHAPES)
    base = write_quantised(tmp_path / "base", tensors, FAMILIES["fp8 blocks"])
    write_checkpoint(tmp_path / "e", {name: one.bfloat16() for name, one in base.items()})
    names = [str(tmp_path / "base"), str(tmp_path / "e")]
    result = merged(tmp_path, names, quantization="none", calibrate="svc")
    assert all(torch.equal(value, base[name].bfloat16()) for name, value in result.items())


def test_scales_of_activations_are_left_out_and_listed(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 tensor", [None])
    file = Path(names[0]) / "model-00001-of-00002.safetensors"
    scales = {f"model.layers.0.self_attn.q_proj.{kind}": torch.ones(()) for kind in ("input_scale", "k_scale")}
    save_file({**load_file(file), **scales}, file)
    index = Path(names[0]) / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"weight_map": {', '"weight_map": {' + "".join(
        f'"{name}": "{file.name}", ' for name in scales)))  # fmt: skip
    plan = svc_dist.make_plan(recipe(names, quantization="none"))
    assert {name for name, _ in plan.not_written} == set(scales)
    assert {tensor.name for tensor in plan.tensors} == set(SHAPES)


def test_a_scale_that_is_no_number_is_named(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 channels", [None])
    for file in Path(names[0]).glob("*.safetensors"):
        stored = load_file(file)
        for name in stored:
            if name.endswith("q_proj.weight_scale"):
                stored[name][3] = torch.nan
        save_file(stored, file)
    with pytest.raises(DamagedInputError, match=r"q_proj.weight': its weight_scale holds NaN"):
        merged(tmp_path, names, quantization="none")


def test_codes_and_scales_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 blocks", [None])
    for file in Path(names[0]).glob("*.safetensors"):
        stored = load_file(file)
        for name in stored:
            if name.endswith("scale_inv"):
                stored[name] = torch.ones(3, 2)
        save_file(stored, file)
    with pytest.raises(DamagedInputError, match=r"m0/model-.*down_proj.weight_scale_inv F32 \[3, 2\]"):
        svc_dist.make_plan(recipe(names, quantization="none"))
