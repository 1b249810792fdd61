"""The card and the recipe beside a model: the user's own text, no path of this machine, links to the papers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

import svc_dist
from svc_dist.run.provenance import card
from svc_dist.run_folder.report import read_report
from tests.support.checkpoints import recipe_data, write_llamas, write_recipe

OWN = """\
# what we merge every night
base_model: ./models/base
models:
  - model: {folder}/models/expert0   # the coder
  - model: models/expert1
merge_method: ties
calibrate: svc
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    write_llamas(tmp_path / "models")
    (tmp_path / "r.yaml").write_text(OWN.format(folder=tmp_path))
    svc_dist.merge(tmp_path / "r.yaml", tmp_path / "out", executor="inline", changes={"parameters.lambda": 0.5})
    return tmp_path / "out"


def test_the_recipe_is_the_users_own_with_short_paths_and_what_was_set(made: Path) -> None:
    text = (made / "merge_recipe.yaml").read_text()
    first, rest = text.split("\n", 1)
    assert first.startswith("# Local paths are shortened")
    assert rest == OWN.replace("{folder}/models/expert0", "expert0") + "\n# --set parameters.lambda=0.5\n"
    assert read_report(str(made)).recipe["parameters"]["lambda"] == 0.5, "the report has it resolved"
    assert read_report(str(made)).recipe["models"][0]["model"] == f"{made.parent}/models/expert0"


def test_the_card_names_models_and_papers_and_no_path_of_this_machine(made: Path) -> None:
    text = (made / "README.md").read_text()
    data = ModelCard(text).data.to_dict()
    assert "base_model" not in data  # none has a repository on a hub
    assert "base_model_relation" not in data
    assert "from the base `base` and\n\n- `expert0`\n- `expert1`" in text
    assert "# what we merge every night" in text
    assert "- `ties`: Yadav et al. 2023, [arXiv 2306.01708](https://arxiv.org/abs/2306.01708)" in text
    assert "- `svc`: Li et al. 2026, [arXiv 2602.05536](https://arxiv.org/abs/2602.05536)" in text
    assert str(made.parent) not in text
    assert str(made.parent) not in (made / "merge_recipe.yaml").read_text()


def test_a_hub_is_told_of_its_own_models_alone() -> None:
    def model(location: str, hub: str | None = None, adapter: Any = None) -> SimpleNamespace:
        return SimpleNamespace(location=location, hub=hub, adapter=adapter, label=hub or location)

    models = (
        model("/cache/models--o--base", "o/base"),
        model("hf://o/math@" + "a" * 40, "o/math@v2"),
        model("hf://o/code"),
        model("s3://bucket/owner/name"),
        model("/models/owner/name"),
        model("/cache/models--o--base", "o/base", model("hf://o/lora")),
        model("document://name"),
    )
    plan: Any = SimpleNamespace(adapter=None, models=models)
    found = {"base_model": ["o/base", "o/math", "o/code", "o/lora"], "base_model_relation": "merge"}
    assert card._base_models(plan) == found
    plan = SimpleNamespace(adapter={"base_model_name_or_path": "s3://bucket/base"}, models=models)
    assert card._base_models(plan) == {}
    plan = SimpleNamespace(adapter={"base_model_name_or_path": "o/base@v1"}, models=models)
    assert card._base_models(plan) == {"base_model": "o/base"}


def test_a_recipe_without_absolute_paths_is_stored_as_it_is_and_can_be_used_beside_its_models(tmp_path: Path) -> None:
    write_llamas(tmp_path / "models")
    own = OWN.format(folder=".").replace("./models/expert0", "models/expert0")
    (tmp_path / "r.yaml").write_text(own)
    svc_dist.merge(tmp_path / "r.yaml", tmp_path / "out", executor="inline")
    assert (tmp_path / "out" / "merge_recipe.yaml").read_text() == own


def test_a_recipe_that_was_data_is_stored_resolved(tmp_path: Path) -> None:
    svc_dist.merge(recipe_data(write_llamas(tmp_path / "models")), tmp_path / "out", executor="inline")
    text = (tmp_path / "out" / "merge_recipe.yaml").read_text()
    written = yaml.safe_load(text)
    assert (written["base_model"], written["models"][0]["model"]) == ("base", "expert0")
    assert written["merge_method"] == "task_arithmetic"
    assert str(tmp_path) not in text


def test_a_resumed_merge_stores_the_recipe_of_its_first_start(tmp_path: Path) -> None:
    from tests.support.stopped import stop_merge

    recipe = write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path / "models"), max_shard_size="4kB")
    recipe.write_text("# mine\n" + recipe.read_text())
    stop_merge(recipe, tmp_path / "out", 2)
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    assert "# mine\n" in (tmp_path / "out" / "merge_recipe.yaml").read_text()
