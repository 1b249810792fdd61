"""Adapters that merges wrote, verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import svc_dist
from svc_dist.checks.verify import verify
from tests.support.adapters import PREFIX, llama_modules, lora, write_adapter
from tests.support.checkpoints import poke, recipe_data, write_llamas
from tests.support.quantised import FAMILIES, tensors_of, write_quantised


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    base, *_ = write_llamas(tmp_path, experts=0)
    one = write_adapter(tmp_path / "one", lora(llama_modules()))
    svc_dist.merge(recipe_data([base, one], output="adapter"), tmp_path / "out")
    return tmp_path / "out"


def test_a_sound_one(adapter: Path) -> None:
    result = verify(str(adapter), deep=True)
    assert result.ok
    assert f"every tensor of the adapter fits the base ({adapter.parent / 'base'})" in result.checked


def test_changed_data(adapter: Path) -> None:
    poke(adapter / "adapter_model.safetensors", f"{PREFIX}model.layers.0.mlp.down_proj.lora_A.weight", 0, 7.0)
    assert not verify(str(adapter), deep=True).ok


def test_another_rank_in_the_configuration(adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 3}))
    assert "has rank 2, but adapter_config.json says 3" in str(verify(str(adapter)).problems)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 2, "lora_alpha": 3}))
    assert "adapter_config.json is not the file that was written" in str(verify(str(adapter)).problems)


def test_without_its_configuration_it_is_incomplete(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()
    assert not verify(str(adapter)).ok


@pytest.mark.parametrize("family", ["fp8 blocks", "mxfp4", "int4"])
def test_over_a_quantised_base(family: str, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj"
    write_quantised(tmp_path / "base", tensors_of(0, {f"{name}.weight": (16, 64), "norm": (64,)}), FAMILIES[family])
    one = write_adapter(tmp_path / "one", lora({name: (16, 64)}))
    svc_dist.merge(recipe_data([tmp_path / "base", one], output="adapter"), tmp_path / "out")
    assert verify(str(tmp_path / "out")).problems == []
