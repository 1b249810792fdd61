"""Verification: a sound merge passes every check, and each kind of damage is found by the check that is for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import svc_dist
from svc_dist.checks.verify import Verification, verify
from svc_dist.cli.app import app
from svc_dist.errors import VerificationError
from tests.support.checkpoints import (
    INDEX,
    llama_config,
    llama_like,
    poke,
    recipe_data,
    write_checkpoint,
    write_llamas,
    write_recipe,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    recipe = write_recipe(folder / "r.yaml", write_llamas(folder), max_shard_size="4kB")
    svc_dist.merge(recipe, folder / "out", executor="inline", device="cpu")
    return folder / "out"


@pytest.fixture
def merged(sound: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def test_a_sound_merge_passes_every_check(sound: Path) -> None:
    result = verify(str(sound), deep=True)
    assert result.ok
    assert (result.problems, result.skipped) == ([], [])
    checked = " | ".join(result.checked)
    for words in (
        "index and headers agree", "the safetensors library reads every shard", "are those that were written",
        "names and shapes are the base's", "every parameter of LlamaForCausalLM", "recorded checksum", "no NaN",
    ):  # fmt: skip
        assert words in checked


def drop_a_shard(folder: Path) -> None:
    first_shard(folder).unlink()


def change_a_weight(folder: Path) -> None:
    poke(first_shard(folder), "model.embed_tokens.weight", 0, 3.0)


def write_an_infinity(folder: Path) -> None:
    poke(first_shard(folder), "model.embed_tokens.weight", 5, float("inf"))


def break_the_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def drop_the_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def lie_about_the_size(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["metadata"]["total_size"] = 7
    (folder / INDEX).write_text(json.dumps(index))


def empty_the_report(folder: Path) -> None:
    (folder / "merge_report.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop_a_shard, "model-00001-of-"),
        (change_a_weight, "are not those written"),
        (write_an_infinity, "holds inf at element 5"),
        (break_the_config, "config.json: not valid JSON"),
        (drop_the_config, "config.json is missing"),
        (lie_about_the_size, "says 7 bytes"),
        (empty_the_report, "merge_report.json cannot be read"),
    ],
)
def test_damage_is_a_problem_that_says_where(merged: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(merged)
    result = verify(str(merged), deep=True)
    assert not result.ok
    assert any(said in problem for problem in result.problems), result.problems


def test_changed_values_show_only_when_all_data_is_read(merged: Path) -> None:
    change_a_weight(merged)
    assert verify(str(merged)).ok


def test_a_model_of_somebody_else_is_checked_as_far_as_that_goes(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "plain", llama_like(0), config=llama_config())
    result = verify(str(model), deep=True)
    assert result.ok
    assert any("there is no merge_report.json" in reason for reason in result.skipped)


def test_a_parameter_that_the_architecture_lacks_a_weight_for_is_named(tmp_path: Path) -> None:
    tensors = {name: value for name, value in llama_like(0).items() if name != "model.norm.weight"}
    result = verify(str(write_checkpoint(tmp_path / "cut", tensors, config=llama_config())))
    assert result.problems == ["LlamaForCausalLM: model.norm.weight is missing"]


def test_an_empty_folder_is_one_problem(tmp_path: Path) -> None:
    result = verify(str(tmp_path))
    assert len(result.problems) == 1
    assert "the merge is not complete" in result.problems[0]
    assert result.unfinished
    failed = CliRunner().invoke(app, ["verify", str(tmp_path)]).exception
    assert isinstance(failed, VerificationError)
    assert failed.hint == "check the path, or run the same merge again to resume"
    assert not Verification(problems=["one"]).ok


def test_a_tensor_of_no_weights_dtype_is_not_looked_into(tmp_path: Path) -> None:
    ones = torch.full((4,), -1, dtype=torch.int32)  # as float32 these bits would be a NaN
    assert verify(str(write_checkpoint(tmp_path / "ids", {"ids": ones, "w": torch.ones(3)})), deep=True).ok


def test_json_is_one_object_with_a_state(merged: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(merged), "--json"])
    said = json.loads(done.stdout)
    assert (done.exit_code, said["state"], said["problems"]) == (0, "ok", [])
    assert said["checked"]
    first_shard(merged).unlink()
    done = CliRunner().invoke(app, ["verify", str(merged), "--json"])
    assert isinstance(done.exception, VerificationError)
    said = json.loads(done.stdout)
    assert said["state"] == "wrong"
    assert "model-00001" in said["problems"][0]


def test_each_of_several_results_is_checked(tmp_path: Path) -> None:
    models = write_llamas(tmp_path / "models")
    results = [{"path": "a"}, {"path": "b", "parameters": {"lambda": 0.5}}]
    svc_dist.merge(recipe_data(models, outputs=results), tmp_path / "out", executor="inline", device="cpu")
    result = verify(str(tmp_path / "out"), deep=True)
    alone = verify(str(tmp_path / "out" / "b"), deep=True)
    assert result.ok
    assert [line for line in result.checked if line.startswith("b: ")] == [f"b: {line}" for line in alone.checked]
    assert len(result.checked) == 2 * len(alone.checked)
    (tmp_path / "out" / "b" / "model.safetensors.index.json").unlink()
    (problem,) = verify(str(tmp_path / "out")).problems
    assert problem.startswith("b: ")
    assert "has no model.safetensors.index.json" in problem
