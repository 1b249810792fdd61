"""The plan: everything decided from headers alone, the same each time, and changed when its inputs are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import svc_dist
from svc_dist.checkpoint.header import header_length, parse_header
from svc_dist.errors import PlanError, RecipeError
from svc_dist.plan.fingerprint import differences
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from tests.support.adapters import PREFIX, config, write_adapter
from tests.support.checkpoints import (
    llama_config,
    llama_like,
    llama_shapes,
    poke,
    sparse_checkpoint,
    write_checkpoint,
    write_llamas,
    write_recipe,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("llamas"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The base and five experts."""
    return write_llamas(tmp_path_factory.mktemp("many"), experts=5)


def plan(recipe: Path, **settings: Any) -> Plan:
    return make_plan(load_recipe(recipe), Settings(**settings))


def test_planning_again_gives_the_same_plan(models: list[Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", models, calibrate="svc")
    assert plan(recipe) == plan(recipe)


def test_another_process_makes_the_same_plan(models: list[Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", models, calibrate="svc")
    script = "import sys, svc_dist; print(svc_dist.make_plan(sys.argv[1]).to_json())"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(recipe)], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == plan(recipe).to_json()


def test_a_plan_survives_json(models: list[Path], tmp_path: Path) -> None:
    rules = [{"match": "*embed*", "keep": "base"}]
    recipe = write_recipe(tmp_path / "r.yaml", models, calibrate="svc", rules=rules, max_shard_size="4kB")
    made = plan(recipe)
    assert Plan.from_json(made.to_json()) == made
    assert Plan.from_json(json.dumps(json.loads(made.to_json()))).to_json() == made.to_json()


@pytest.mark.parametrize("size", ["1kB", "4kB", "5GB"])
def test_units_write_every_byte_of_every_shard_once(models: list[Path], tmp_path: Path, size: str) -> None:
    made = plan(write_recipe(tmp_path / "r.yaml", models, calibrate="svc", max_shard_size=size))
    for number, shard in enumerate(made.shards):
        position = 0
        for unit in (unit for unit in made.units if unit.shard == number):
            assert unit.start == position
            position = unit.end
        assert position == shard.size
    elements = dict.fromkeys(range(len(made.tensors)), 0)
    for unit in made.units:
        for number, first, last in unit.pieces:
            assert elements[number] == first
            elements[number] = last
    for number, tensor in enumerate(made.tensors):
        assert elements[number] == torch.Size(tensor.shape).numel()
    assert made.bytes_out == sum(shard.size for shard in made.shards)
    assert made.tensor_bytes == sum(tensor.nbytes for tensor in llama_like(0).values())


def test_the_headers_of_a_plan_are_true(models: list[Path], tmp_path: Path) -> None:
    made = plan(write_recipe(tmp_path / "r.yaml", models, max_shard_size="4kB", dtype="float32"))
    assert len(made.shards) > 2
    for number, shard in enumerate(made.shards):
        header = made.header(number)
        specs = parse_header(header[8 : 8 + header_length(header, shard.file, shard.size)], shard.file, shard.size)
        for tensor in made.shard_tensors[number]:
            found = specs[tensor.name]
            assert (found.dtype, found.shape, found.start, found.end) == ("F32", tensor.shape, tensor.start, tensor.end)


def test_the_fingerprint_is_that_of_its_inputs(tmp_path: Path) -> None:
    models = write_llamas(tmp_path)
    recipe = write_recipe(tmp_path / "r.yaml", models)
    first = plan(recipe)
    write_recipe(tmp_path / "elsewhere/again.yaml", models)
    assert plan(tmp_path / "elsewhere/again.yaml").fingerprint == first.fingerprint
    assert plan(recipe, precision="float64").fingerprint != first.fingerprint
    assert plan(recipe, threads_per_unit=2).fingerprint != first.fingerprint


def touch(models: list[Path]) -> None:
    file = models[1] / "model-00001-of-00002.safetensors"
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def change_a_weight(models: list[Path]) -> None:
    poke(models[2] / "model-00001-of-00002.safetensors", "model.embed_tokens.weight", 0, 3.0)


def resave_with_another_header(models: list[Path]) -> None:
    write_checkpoint(models[0], llama_like(0), shards=3, config=llama_config())


CHANGES: dict[str, tuple[Callable[[list[Path]], None], dict[str, Any], str]] = {
    "an input's mtime": (touch, {}, "expert0/model-00001-of-00002.safetensors: was"),
    "an input's weights": (change_a_weight, {}, "expert1/model-00001-of-00002.safetensors: was"),
    "an input's shards": (resave_with_another_header, {}, "base/model-00003-of-00003.safetensors is new"),
    "a parameter": (lambda models: None, {"parameters": {"lambda": 0.5}}, "parameters: lambda: was None, is 0.5"),
    "a calibration": (lambda models: None, {"calibrate": "svc"}, "recipe: calibrate: was None, is {'method': 'svc'}"),
    "a method": (lambda models: None, {"method": "linear"}, "merge_method: was task_arithmetic, is linear"),
    "a rule": (lambda models: None, {"rules": [{"match": "lm_head*", "keep": "base"}]}, "recipe: rules: was"),
    "a dtype": (lambda models: None, {"dtype": "float32"}, "recipe: dtype: was None, is float32"),
    "the shard size": (lambda models: None, {"max_shard_size": "4kB"}, "max_shard_size: was 5000000000, is 4000"),
}


@pytest.mark.parametrize(("change", "keys", "words"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_another_fingerprint_and_is_told(
    change: Callable[[list[Path]], None], keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    models = write_llamas(tmp_path)
    old = plan(write_recipe(tmp_path / "r.yaml", models))
    change(models)
    new = plan(write_recipe(tmp_path / "r.yaml", models, **keys))
    assert new.fingerprint != old.fingerprint
    assert any(words in line for line in differences(old, new)), differences(old, new)


def test_a_changed_precision_is_told(models: list[Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", models)
    assert differences(plan(recipe), plan(recipe, precision="fast")) == ["settings: precision: was mixed, is fast"]


def test_the_order_of_the_experts_is_part_of_the_recipe(models: list[Path], tmp_path: Path) -> None:
    base, one, two = models
    first = plan(write_recipe(tmp_path / "r.yaml", [base, one, two]))
    assert plan(write_recipe(tmp_path / "r.yaml", [base, two, one])).fingerprint != first.fingerprint


def test_plain_dtypes_that_are_not_weights_are_copied(tmp_path: Path) -> None:
    extra = {"ids": torch.arange(5), "mask": torch.tensor([True, False]), "bytes": torch.zeros(3, dtype=torch.uint8)}
    models = [write_checkpoint(tmp_path / str(seed), llama_like(seed) | extra) for seed in range(2)]
    made = plan(write_recipe(tmp_path / "r.yaml", models, dtype="float16"))
    found = {tensor.name: (tensor.dtype, made.dispositions(tensor)[0].kind) for tensor in made.tensors}
    assert (found["ids"], found["mask"], found["bytes"]) == (("I64", "copied"), ("BOOL", "copied"), ("U8", "copied"))
    assert found["lm_head.weight"] == ("F16", "merged")


def test_what_is_not_written_is_listed_with_its_reason(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_like(0, head=False), config=llama_config(tied=True))
    expert = write_checkpoint(tmp_path / "one", llama_like(1) | {"extra": torch.zeros(3)}, config=llama_config())
    made = plan(write_recipe(tmp_path / "r.yaml", [base, expert], rules=[{"match": ["lm_*", "extra"], "keep": "base"}]))
    assert made.not_written == (
        ("extra", "not in the base, left out by rules[0]"),
        ("lm_head.weight", "not stored, as in the base: it is model.embed_tokens.weight, to which it is tied"),
    )


def test_a_base_without_tensors_is_nothing_to_write(tmp_path: Path) -> None:
    models = [write_checkpoint(tmp_path / name, {}) for name in ("base", "one")]
    with pytest.raises(RecipeError, match=r"nothing to write: the base .*/base holds no tensors"):
        plan(write_recipe(tmp_path / "r.yaml", models))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"rules": [{"match": "*", "keep": "none"}]}, "left out by rules"),
        ({"rules": [{"match": "*", "keep": "base"}], "output": "adapter"}, "kept from the base by rules"),
    ],
)
def test_nothing_to_write_names_what_leaves_all_tensors_out(keys: dict[str, Any], why: str, tmp_path: Path) -> None:
    models = [write_checkpoint(tmp_path / name, llama_like(0)) for name in ("base", "one")]
    with pytest.raises(RecipeError, match=rf"nothing to write: every tensor is left out, .* because: .*{why}"):
        plan(write_recipe(tmp_path / "r.yaml", models, **keys))


def bytes_read() -> int:
    """Bytes that this process has read so far, wherever from."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc")
def test_a_model_of_70_billion_parameters_is_planned_in_seconds_from_headers_alone(tmp_path: Path) -> None:
    shapes = llama_shapes(layers=80, hidden=8192, intermediate=28672, vocabulary=128256, kv=1024)
    models = [sparse_checkpoint(tmp_path / name, shapes) for name in ("base", "a", "b", "c", "d")]
    recipe = write_recipe(tmp_path / "r.yaml", models, calibrate="svc")
    began, read = time.monotonic(), bytes_read()
    made = svc_dist.make_plan(recipe)
    assert time.monotonic() - began < 5
    assert bytes_read() - read < 50e6
    assert made.bytes_in > 5 * 140e9
    assert made.tensor_bytes > 140e9
    assert all(shard.size <= 5e9 + 1e6 for shard in made.shards)
    assert Plan.from_json(made.to_json()) == made


def test_dora_of_an_embedding_needs_all_its_rows(tmp_path: Path) -> None:
    """The lengths of its columns are those of all tokens; some rows alone would be rescaled wrongly."""
    name = "model.embed_tokens.weight"
    base = write_checkpoint(tmp_path / "base", {name: torch.ones(8, 4)})
    fewer = write_checkpoint(tmp_path / "fewer", {name: torch.ones(6, 4)})
    tensors = {f"{PREFIX}model.embed_tokens.lora_embedding_A": torch.ones(2, 8)}
    tensors |= {f"{PREFIX}model.embed_tokens.lora_embedding_B": torch.ones(4, 2)}
    tensors |= {f"{PREFIX}model.embed_tokens.lora_magnitude_vector": torch.ones(4)}
    adapter = write_adapter(tmp_path / "a", tensors, config(use_dora=True))
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", [base, fewer, adapter], vocab="common"))
    with pytest.raises(PlanError, match=r"needed, but only 6 of them are merged"):
        make_plan(recipe, Settings())
