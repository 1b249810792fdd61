"""A merge of quantised models in the base's own format: names, codes and scales are those of its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.plan import costs
from tests.plan.quantised.test_decoded import SHAPES, models, recipe
from tests.support.checkpoints import write_checkpoint
from tests.support.quantised import FAMILIES, encoded, tensors_of, write_quantised


def stored(folder: Path | str) -> dict[str, torch.Tensor]:
    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same bytes."""
    views = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*views)


def merge(folder: Path, names: list[str], **more: Any) -> dict[str, torch.Tensor]:
    svc_dist.merge(recipe(names, **more), folder, executor="inline")
    return stored(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_result_is_the_merge_in_bfloat16_encoded(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "SLICE", 1024)
    names, _ = models(tmp_path, family, [family, None])
    weights = merge(tmp_path / "none", names, quantization="none")
    result = merge(tmp_path / "base", names)
    base = stored(names[0])
    assert {name: (one.dtype, one.shape) for name, one in result.items()} == {
        name: (one.dtype, one.shape) for name, one in base.items()
    }
    for name, weight in weights.items():
        if not name.endswith("_proj.weight"):
            assert same(result[name], weight)
            continue
        codec = FAMILIES[family].codec((weight.shape[0], weight.shape[1]))
        stem = name.removesuffix(".weight")
        own = {suffix: base[stem + suffix] for suffix in codec.of_the_whole if family == "nvfp4"}
        expected = codec.encode(weight, own) if own else encoded(weight, codec)  # it keeps an upper scale that serves
        assert all(same(result[stem + suffix], part) for suffix, part in expected.items())
    assert json.loads((tmp_path / "base/config.json").read_text()) == json.loads(
        Path(names[0], "config.json").read_text()
    )
    checked = verify(str(tmp_path / "base"), deep=True)
    assert not checked.problems


@pytest.mark.parametrize("family", FAMILIES)
def test_what_no_expert_changes_keeps_its_bytes(family: str, tmp_path: Path) -> None:
    """Also where the expert is the same model in bfloat16, of which encoding would give other scales."""
    decoded = write_quantised(tmp_path / "base", tensors_of(0, SHAPES), FAMILIES[family])
    expert = {name: one.bfloat16() for name, one in decoded.items()}
    expert["model.layers.0.self_attn.q_proj.weight"][20] += 0.5
    write_checkpoint(tmp_path / "e", expert)
    names = [str(tmp_path / "base"), str(tmp_path / "e")]
    result, base = merge(tmp_path / "out", names), stored(names[0])
    changed = {name for name in base if not same(result[name], base[name])}
    assert changed
    assert all(name.startswith("model.layers.0.self_attn.q_proj.") for name in changed)
    codec = FAMILIES[family].codec(SHAPES["model.layers.0.self_attn.q_proj.weight"])
    if not codec.of_the_whole:  # then rows of other blocks stay too
        rows = slice(32, 64) if codec.grain > 1 else slice(21, 64)
        name = f"model.layers.0.self_attn.q_proj{codec.parts[0].suffix}"
        assert same(result[name][rows], base[name][rows])


@pytest.mark.parametrize("kind", ["fp8 blocks", "nvfp4", None])
def test_a_weight_that_is_kept_from_another_model_is_written_in_the_base_format(
    kind: str | None, tmp_path: Path
) -> None:
    names, decoded = models(tmp_path, "fp8 blocks", [kind, None])
    rules = [{"match": "*_proj.weight", "keep": names[1]}]
    result, kept = merge(tmp_path / "out", names, rules=rules), stored(names[1])
    for name in (name for name in SHAPES if name.endswith("_proj.weight")):
        if kind == "fp8 blocks":  # in its own codes
            assert same(result[name], kept[name])
            assert same(result[f"{name}_scale_inv"], kept[f"{name}_scale_inv"])
        else:
            codec = FAMILIES["fp8 blocks"].codec(SHAPES[name])
            expected = codec.encode(decoded[1][name].bfloat16())
            assert same(result[name], expected[".weight"])
            assert same(result[f"{name}_scale_inv"], expected[".weight_scale_inv"])


def test_every_result_is_written_in_codes(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 blocks", ["fp8 blocks"])
    outputs = [{"path": "half", "parameters": {"lambda": 0.5}}, {"path": "whole", "parameters": {"lambda": 1.0}}]
    merge(tmp_path / "both", names, outputs=outputs)
    for path, scale in (("half", 0.5), ("whole", 1.0)):
        alone = merge(tmp_path / path, names, parameters={"lambda": scale})
        assert all(same(one, alone[name]) for name, one in stored(tmp_path / "both" / path).items())


def test_state_dicts_are_merged_in_codes_too(tmp_path: Path) -> None:
    names, _ = models(tmp_path, "fp8 blocks", ["fp8 blocks"])
    expected = merge(tmp_path / "out", names)
    config = json.loads(Path(names[0], "config.json").read_text())
    given = svc_dist.merge_state_dicts(
        stored(names[0]), [stored(names[1])], method="task_arithmetic", weight=0.5, config=config
    )
    assert given.keys() == expected.keys()
    assert all(same(one, expected[name]) for name, one in given.items())
