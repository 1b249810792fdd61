"""Several results of one pass: each has the bytes of the merge that makes it alone, and is a whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch import Tensor

import svc_dist
from svc_dist.checks.status import read_status
from svc_dist.checks.verify import verify
from svc_dist.errors import ChangedInputError, OutputError, RecipeError
from tests.support.checkpoints import recipe_data, write_checkpoint
from tests.support.command import shard_hashes

SVC = {"method": "svc"}


def write_models(folder: Path) -> list[Path]:
    """Base and two experts: matrices, a batch of them, an embedding, norms, and a tensor that no expert changed."""
    shapes = {
        "model.embed_tokens.weight": (40, 24),
        **{f"model.layers.{layer}.mlp.up_proj.weight": (48, 24) for layer in range(3)},
        **{f"model.layers.{layer}.mlp.down_proj.weight": (24, 48) for layer in range(3)},
        "model.layers.0.mlp.experts.gate_up": (3, 20, 24),
        "model.norm.weight": (24,),
        "model.kept.weight": (16, 16),
    }
    models = []
    for seed, name in enumerate(("base", "expert0", "expert1")):
        random = torch.Generator().manual_seed(seed)
        tensors: dict[str, Tensor] = {n: torch.randn(s, generator=random) for n, s in shapes.items()}
        tensors["model.kept.weight"] = torch.full((16, 16), -0.0)
        config = {"architectures": ["none named"]}
        models.append(write_checkpoint(folder / name, tensors, shards=2, config=config))
    return models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def recipe(models: list[Path], method: str, outputs: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    return recipe_data(models, method, max_shard_size="12KB", outputs=outputs, **keys)


CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "scales": ("ties", [{"lambda": 0.3}, {"lambda": 1}]),
    "alphas": (
        "task_arithmetic",
        [{}, {"calibrate": SVC}, {"calibrate": {**SVC, "alpha": 1}}, {"calibrate": {**SVC, "side": "right"}}],
    ),
    "times": (
        "swudi",
        [
            {"parameters": {"exp_time": 100}},
            {"parameters": {"exp_time": 300}, "lambda": 0.5},
            {"parameters": {"exp_time": 1300}, "calibrate": SVC},
        ],
    ),
    "few directions": ("swudi", [{"parameters": {"exp_time": t, "rank_ratio": 0.05}} for t in (100, 300)]),
    "densities": ("dare_ties", [{"parameters": {"density": 0.2}}, {"parameters": {"density": 0.7}}]),
    "rules": ("swudi_a", [{"parameters": {"rank_rule": "entropy"}}, {"parameters": {"rank_rule": "stable_rank"}}]),
    "tsv": ("tsv_m", [{"lambda": 0.5}, {"calibrate": SVC}]),
}


def alone(entry: dict[str, Any]) -> dict[str, Any]:
    """The keys of the recipe that gives one output by itself."""
    scale = {"lambda": entry["lambda"]} if "lambda" in entry else {}
    parameters = {**entry.get("parameters", {}), **scale}
    return {"parameters": parameters} | ({"calibrate": entry["calibrate"]} if "calibrate" in entry else {})


def became(report: dict[str, Any]) -> dict[str, Any]:
    """What became of each tensor."""
    return {tensor["name"]: report["dispositions"][tensor["disposition"]] for tensor in report["tensors"]}


@pytest.mark.parametrize("case", CASES)
def test_each_has_the_bytes_of_the_merge_that_makes_it_alone(models: list[Path], tmp_path: Path, case: str) -> None:
    method, entries = CASES[case]
    outputs = [{"path": f"out{number}", **entry} for number, entry in enumerate(entries)]
    svc_dist.merge(recipe(models, method, outputs), tmp_path / "all", executor="inline")
    for number, entry in enumerate(entries):
        one, by_itself = tmp_path / "all" / f"out{number}", tmp_path / f"alone{number}"
        svc_dist.merge(recipe(models, method, [], **alone(entry)), by_itself, executor="inline")
        assert shard_hashes(one) == shard_hashes(by_itself)
        assert verify(str(one), deep=True).ok
        ours, theirs = (json.loads((folder / "merge_report.json").read_text()) for folder in (one, by_itself))
        for key in ("matrices", "deltas", "shards", "ranges", "not_written"):
            assert ours[key] == theirs[key], key
        assert became(ours) == became(theirs)
    assert not (tmp_path / "all" / ".svc_dist").exists()


THREE = [{"path": "a", "lambda": 0.3}, {"path": "b/c", "lambda": 0.6}, {"path": "d", "calibrate": "svc"}]


def test_again_it_finds_itself_done_and_another_recipe_is_refused(models: list[Path], tmp_path: Path) -> None:
    svc_dist.merge(recipe(models, "task_arithmetic", THREE), tmp_path / "out", executor="inline")
    again = svc_dist.merge(recipe(models, "task_arithmetic", THREE), tmp_path / "out", executor="inline")
    assert again.units_resumed == again.units
    assert read_status(str(tmp_path / "out")).state == "complete"
    for other in (THREE[:2], [], [*THREE[:2], {"path": "d"}]):
        with pytest.raises((ChangedInputError, OutputError)):
            svc_dist.merge(recipe(models, "task_arithmetic", other), tmp_path / "out", executor="inline")
    before = shard_hashes(tmp_path / "out" / "a")
    two = [{"path": "a", "lambda": 0.9}, *THREE[1:]]
    svc_dist.merge(recipe(models, "task_arithmetic", two), tmp_path / "out", executor="inline", restart=True)
    assert shard_hashes(tmp_path / "out" / "a") != before


def test_a_folder_with_a_model_of_others_is_left_alone(models: list[Path], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "out" / "b" / "c", {"w": torch.ones(2)}, shards=1)
    with pytest.raises(OutputError, match="b/c"):
        svc_dist.merge(recipe(models, "task_arithmetic", THREE), tmp_path / "out", executor="inline")


def test_on_another_storage_too(models: list[Path], tmp_path: Path) -> None:
    svc_dist.merge(recipe(models, "task_arithmetic", THREE), tmp_path / "out", executor="inline")
    svc_dist.merge(recipe(models, "task_arithmetic", THREE), "memory://several/out", executor="inline")
    memory = fsspec.filesystem("memory")
    for entry in THREE:
        for name in (file.name for file in sorted((tmp_path / "out" / entry["path"]).glob("model*"))):
            found = memory.cat_file(f"/several/out/{entry['path']}/{name}")
            assert found == (tmp_path / "out" / entry["path"] / name).read_bytes()
    assert not memory.find("/several/out/.svc_dist")


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([{"path": "../a"}], "is not a folder inside OUTPUT"),
        ([{"path": "/a"}], "is not a folder inside OUTPUT"),
        ([{"path": ".svc_dist"}], "is not a folder inside OUTPUT"),
        ([{"path": "s3://b/a"}], "is not a folder inside OUTPUT"),
        ([{"path": "a"}, {"path": "a"}], "separate folders"),
        ([{"path": "a"}, {"path": "a/b"}], "separate folders"),
        ([{"path": "a", "lamda": 1}], "did you mean 'lambda'"),
        ([{"path": "a", "calibrate": {"alpha": 0.5}}], "the key 'method' is missing"),
        ([{"path": "a", "parameters": {"exp_time": 3}}], "takes no parameter 'exp_time'"),
        ([{"lambda": 1}], "the key 'path' is missing"),
    ],
)
def test_wrong_outputs_are_refused(models: list[Path], outputs: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        svc_dist.make_plan(recipe(models, "task_arithmetic", outputs))


def test_a_wrong_value_is_told_with_its_own_line(models: list[Path], tmp_path: Path) -> None:
    text = f"""base_model: {models[0]}
models: [{{model: {models[1]}}}, {{model: {models[2]}}}]
merge_method: task_arithmetic
calibrate: svc
outputs:
  - path: a
  - path: b
    calibrate:
      alpha: -1
"""
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"recipe.yaml:9 \(outputs\[1\].calibrate.alpha\): svc: alpha is -1"):
        svc_dist.make_plan(tmp_path / "recipe.yaml")
