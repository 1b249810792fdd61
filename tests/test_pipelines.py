"""The recipes of pipelines/, planned at full scale on real models' headers: dispositions, ranges, fingerprints."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import svc_dist
from svc_dist.checkpoint.dtype import ITEM_SIZE
from svc_dist.plan.fingerprint import PLAN_VERSION
from svc_dist.plan.model import Plan
from svc_dist.recipe.load import load_recipe
from svc_dist.recipe.presets import PRESETS
from tests.support.adapters import sparse_adapter
from tests.support.checkpoints import MODELS, numel, sparse_checkpoint, write_recipe

PIPELINES = Path(__file__).parents[1] / "pipelines"
RECIPES = sorted(path.name for path in PIPELINES.glob("*.yaml"))
MIB, GIB = 2**20, 2**30

#: What becomes of a tensor (method or kind, side and K times alpha of its calibration) and of how many.
Outcome = tuple[str, str | None, float | None]
SVC_LEFT: Outcome = ("task_arithmetic", "left", 1.0)
PLAIN: Outcome = ("task_arithmetic", None, None)
KEPT: Outcome = ("copied", None, None)
slow = pytest.mark.slow  # 19,000 tensors in each of three models take seconds

#: A language model, and models of two modalities over it.
MODALITIES = ("vicuna-7b", "llava-1.5-7b", "audio-vicuna-7b")

#: Adapters of rank 16 to all of its linear layers.
ADAPTERS = tuple(f"llama-3-8b-adapter-{number}" for number in range(5))

CASES: list[Any] = [
    ("quickstart.yaml", "llama-3-70b", {SVC_LEFT: 320, ("task_arithmetic", "left", 3.0): 240, PLAIN: 162, KEPT: 1}),
    ("llama-70b-svc.yaml", "llama-3-70b", {SVC_LEFT: 560, PLAIN: 163}),
    ("llama-70b-swudi-svc.yaml", "llama-3-70b", {("swudi", "left", 1.0): 560, ("linear", None, None): 161, KEPT: 2}),
    ("lora.yaml", ("llama-3-8b", *ADAPTERS), {("swudi", None, None): 224, ("linear", None, None): 65, KEPT: 2}),
    ("moe.yaml", "mixtral-8x7b", {SVC_LEFT: 32 * (4 + 24), PLAIN: 67, KEPT: 32}),
    ("moe.yaml", "qwen3-30b-a3b-fused", {SVC_LEFT: 48 * (4 + 2), PLAIN: 195, KEPT: 48}),
    pytest.param("moe.yaml", "qwen3-30b-a3b", {SVC_LEFT: 48 * (4 + 384), PLAIN: 195, KEPT: 48}, marks=slow),
    (
        "multimodal.yaml",
        MODALITIES,
        {SVC_LEFT: 32 * 7, PLAIN: 65, KEPT: 2 + 3 + 24 * 16 + 4 + 4 + 2 + 32 * 8 + 2},
    ),
    (
        "moe.yaml",
        "llama-4-scout-text",
        {SVC_LEFT: 48 * 7, ("task_arithmetic", "right", 1.0): 96, PLAIN: 99, KEPT: 48},
    ),
]


def checkpoints(folder: Path, model: str, count: int) -> list[Path]:
    """Base and experts of a model's shapes, made once for all tests."""
    paths = [folder / model / str(number) for number in range(count)]
    for path in paths:
        if path.exists():
            continue
        if model in ADAPTERS:
            sparse_adapter(path, linear_modules(MODELS["llama-3-8b"]()), rank=16, alpha=32)
        else:
            sparse_checkpoint(path, MODELS[model]())
            (path / "config.json").write_text('{"tie_word_embeddings": false}')  # all bytes are zero: alike
    return paths


def linear_modules(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """The linear layers of a model, without embedding and head, by the shapes of their weights."""
    layers = {name: shape for name, shape in shapes.items() if ".layers." in name and len(shape) == 2}
    return {name.removesuffix(".weight"): (shape[0], shape[1]) for name, shape in layers.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers")


def located(recipe: str, folder: Path, model: str | tuple[str, ...]) -> dict[str, Any]:
    """A recipe of pipelines/ with its locations replaced: all of one model's shapes, or each of its own."""
    data = yaml.safe_load((PIPELINES / recipe).read_text())
    if isinstance(model, str):
        paths = checkpoints(folder, model, len(data["models"]) + 1)
    else:
        paths = [checkpoints(folder, each, 1)[0] for each in model]
    models = [entry | {"model": str(path)} for entry, path in zip(data["models"], paths[1:], strict=True)]
    return data | {"base_model": str(paths[0]), "models": models}


def shapes_of(model: str | tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """What the result of a recipe holds."""
    if isinstance(model, str):
        return MODELS[model]()
    if model[0] == "llama-3-8b":
        return MODELS["llama-3-8b"]()
    audio = {name: shape for name, shape in MODELS["audio-vicuna-7b"]().items() if name.startswith("audio_")}
    return MODELS["llava-1.5-7b"]() | audio


def outcomes(plan: Plan) -> Counter[Outcome]:
    found: Counter[Outcome] = Counter()
    for tensor in plan.tensors:
        own = plan.dispositions(tensor)[0]
        calibration = own.calibration or {}
        alpha = calibration.get("alpha")
        floor = None if alpha is None else round(alpha * (len(plan.models) - 1), 9)
        found[(own.method or own.kind, calibration.get("side"), floor)] += 1
    return found


def assert_whole(plan: Plan, shapes: dict[str, tuple[int, ...]]) -> None:
    """Every tensor has a place, every shard is covered without a hole, every range and part may be uploaded."""
    assert {tensor.name: tensor.shape for tensor in plan.tensors} == shapes
    for number, shard in enumerate(plan.shards):
        tensors = plan.shard_tensors[number]
        position = tensors[0].start
        assert position % 4096 == 0
        for tensor in tensors:
            assert tensor.start == position
            assert tensor.start % ITEM_SIZE[tensor.dtype] == 0
            position = tensor.end
            assert tensor.end - tensor.start == numel(tensor.shape) * ITEM_SIZE[tensor.dtype]
        assert position == shard.size
    done = [0] * len(plan.tensors)
    ends, sent = [0] * len(plan.shards), [0] * len(plan.shards)
    for unit in plan.units:
        assert unit.start == ends[unit.shard]
        ends[unit.shard] = unit.end
        for tensor, first, last in unit.pieces:
            assert first == done[tensor] < last
            done[tensor] = last
            planned = plan.tensors[tensor]
            if planned.batch is not None and plan.dispositions(planned)[0].calibration is not None:
                assert first % (planned.batch[1] * planned.batch[2]) == 0, "a matrix is never split"
        number, sizes = plan.parts[unit.id]
        assert number == sent[unit.shard] + 1
        assert sum(sizes) == unit.end - unit.start
        last_of_shard = unit.end == plan.shards[unit.shard].size
        assert all(5 * MIB <= size <= 5 * GIB for size in (sizes[:-1] if last_of_shard else sizes))
        sent[unit.shard] += len(sizes)
    assert ends == [shard.size for shard in plan.shards]
    assert done == [numel(tensor.shape) for tensor in plan.tensors]
    assert max(sent) <= 10_000


@pytest.mark.parametrize(("recipe", "model", "expected"), CASES)
def test_a_recipe_fits_its_models(
    recipe: str, model: str | tuple[str, ...], expected: dict[Outcome, int], folder: Path
) -> None:
    data = located(recipe, folder, model)
    plan = svc_dist.make_plan(data)
    assert outcomes(plan) == expected
    assert plan.warnings == ()
    assert plan.not_written == ()
    assert_whole(plan, shapes_of(model))
    again = svc_dist.make_plan(data)
    assert again == plan
    assert Plan.from_json(plan.to_json()) == again


def test_every_recipe_is_planned_here() -> None:
    cases = [case.values if hasattr(case, "values") else case for case in CASES]
    elsewhere = {"deepseek-v3-chimera.yaml", "gpt-oss.yaml"}  # tests/test_quantised_pipelines.py
    assert sorted({case[0] for case in cases} | elsewhere) == RECIPES


def test_fused_experts_may_be_worked_on_side_by_side(folder: Path) -> None:
    plan = svc_dist.make_plan(located("moe.yaml", folder, "llama-4-scout-text"))
    first = next(n for n, tensor in enumerate(plan.tensors) if tensor.name.endswith("experts.gate_up_proj"))
    assert sum(piece[0] == first for unit in plan.units for piece in unit.pieces) == 16


def test_of_two_modalities_each_tower_comes_from_the_model_that_brings_it(folder: Path) -> None:
    plan = svc_dist.make_plan(located("multimodal.yaml", folder, MODALITIES))
    parts: dict[str, set[int]] = {}
    for tensor in plan.tensors:
        own = plan.dispositions(tensor)[0]
        part = tensor.name.split(".")[0] if own.kind == "copied" else own.kind
        parts.setdefault(part, set()).add(own.source)
    assert parts.pop("merged") == {0}
    assert parts == {
        "vision_tower": {1}, "multi_modal_projector": {1}, "language_model": {1}, "audio_encoder": {2},
        "audio_projector": {2},
    }  # fmt: skip
    assert {sidecar.source for sidecar in plan.sidecars if sidecar.name == "config.json"} == {1}


def test_adapters_are_planned_for_what_their_ranks_cost(folder: Path) -> None:
    model = ("llama-3-8b", *ADAPTERS)
    plan = svc_dist.make_plan(located("lora.yaml", folder, model))
    factors = sum(2 * 16 * sum(shape) for shape in linear_modules(MODELS["llama-3-8b"]()).values())
    assert plan.bytes_in == plan.tensor_bytes + 5 * factors, "the base once, and of each adapter its own few bytes"
    assert sum(unit.flops for unit in plan.units) < 4e12
    assert max(unit.memory for unit in plan.units) < 150 * MIB


def test_the_lora_recipe_has_its_authors_values() -> None:
    recipe, preset = load_recipe(PIPELINES / "lora.yaml").plain, PRESETS["swudi-lora"].values
    assert recipe["merge_method"] == preset["merge_method"]
    assert recipe["parameters"] == preset["parameters"]
    assert [(rule["match"], rule["keep"]) for rule in recipe["rules"]] == [
        (rule["match"], rule["keep"]) for rule in preset["rules"]
    ]


def test_the_swudi_recipe_has_its_authors_values() -> None:
    recipe, preset = load_recipe(PIPELINES / "llama-70b-swudi-svc.yaml").plain, PRESETS["swudi-llama-full"].values
    assert recipe["merge_method"] == preset["merge_method"]
    assert recipe["parameters"] == preset["parameters"]
    assert [rule["keep"] for rule in recipe["rules"]] == [rule["keep"] for rule in preset["rules"]]


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "quickstart.yaml"])
def test_recipes_are_on_s3_and_what_their_comments_offer_is_valid(recipe: str, tmp_path: Path) -> None:
    text = (PIPELINES / recipe).read_text()
    offered = re.sub(r"^# ((?:storage|rules):|  .*: ?.*)$", r"\1", text.partition("base_model")[2], flags=re.M)
    (tmp_path / "r.yaml").write_text(f"base_model{offered}")
    checked = load_recipe(tmp_path / "r.yaml")
    assert checked.access.options
    assert all(model.location.startswith("s3://") for model in checked.models)


#: SHA-256 of where every byte of the 70 B model goes, by plan version.
LAYOUTS = {6: "0904ca4f30ce8c2693c2d9c3ea41c11b646cc0daaa3310caf51c19c3288c1559"}


def test_where_bytes_go_changes_only_with_the_plan_version(folder: Path) -> None:
    plan = svc_dist.make_plan(located("llama-70b-svc.yaml", folder, "llama-3-70b"))
    places = [(tensor.name, tensor.shard, tensor.start, tensor.end) for tensor in plan.tensors]
    units = [(unit.id, unit.shard, unit.start, unit.end, unit.pieces, plan.parts[unit.id]) for unit in plan.units]
    assert hashlib.sha256(json.dumps([places, units]).encode()).hexdigest() == LAYOUTS[PLAN_VERSION]


MEASURE = """
import sys, time
import svc_dist
from svc_dist.plan.model import Plan
plan = svc_dist.make_plan(sys.argv[1])
assert Plan.from_json(plan.to_json()) == plan
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.process_time(), int(peak.split()[1]) / 1024, len(plan.units), len(plan.to_json()) / 1e6)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("calibrate", ["none", "svc"])
@pytest.mark.parametrize("model", ["llama-3.1-405b", "qwen3-30b-a3b"])
def test_the_largest_models_are_planned_in_seconds(model: str, calibrate: str, folder: Path, tmp_path: Path) -> None:
    """With eight experts; start, writing and reading the plan included. benchmarks/README.md has the figures.

    Seconds of the processor: how long it waits for one says what else the machine does.
    """
    recipe = write_recipe(tmp_path / "r.yaml", checkpoints(folder, model, 9), calibrate=calibrate)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(recipe)], capture_output=True, text=True, check=True, timeout=300
    )
    seconds, peak, units, megabytes = map(float, done.stdout.split())
    print(f"{model}, {calibrate}: {seconds:.1f} s, {peak:.0f} MiB, {units:.0f} units, plan.json {megabytes:.1f} MB")
    assert seconds < (10 if model == "llama-3.1-405b" else 60)
    assert peak < 1024
