"""Publishing: the index says where each tensor is, the card how the model was made, and nothing is published early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import svc_dist
from svc_dist.errors import VerificationError
from svc_dist.run.publish import publish
from svc_dist.run_folder.output import Output
from tests.support.checkpoints import INDEX, specs_of, tree_state, write_llamas, write_recipe
from tests.support.stopped import stop_merge


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    models = write_llamas(tmp_path / "models")
    return write_recipe(tmp_path / "r.yaml", models, calibrate="svc", max_shard_size="4kB")


def test_the_index_names_the_shard_of_each_tensor_and_their_bytes(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    svc_dist.merge(recipe, out, executor="inline", device="cpu")
    index = json.loads((out / INDEX).read_text())
    stored = {name: file.name for file in out.glob("*.safetensors") for name in specs_of(file)}
    assert index["weight_map"] == stored
    total = sum(spec.end - spec.start for file in out.glob("*.safetensors") for spec in specs_of(file).values())
    assert index["metadata"]["total_size"] == total


def test_the_card_and_the_recipe_say_how_the_model_was_made(recipe: Path, tmp_path: Path) -> None:
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Merged model (task_arithmetic + svc)" in card
    assert "from the base `base`" in card
    assert "- `expert1`" in card
    written = yaml.safe_load((tmp_path / "out" / "merge_recipe.yaml").read_text())
    assert written == yaml.safe_load(recipe.read_text()) | {key: written[key] for key in ("base_model", "models")}
    assert (written["base_model"], written["calibrate"]) == ("base", "svc")


def test_nothing_is_published_while_a_unit_has_no_receipt(recipe: Path, tmp_path: Path) -> None:
    stop_merge(recipe, tmp_path / "out", 2)
    output = Output(str(tmp_path / "out"))
    plan = output.journal.plan()
    assert plan is not None
    before = tree_state(tmp_path / "out")
    with pytest.raises(VerificationError, match="1 unit without a receipt"):
        publish(plan, output)
    assert tree_state(tmp_path / "out") == before


def test_publishing_what_is_published_changes_no_file(recipe: Path, tmp_path: Path) -> None:
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*") if path.is_file()}
    publish(svc_dist.make_plan(recipe, device="cpu"), Output(str(tmp_path / "out")))
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*") if path.is_file()} == before
