"""Where a recipe lies, and the paths in it."""

from __future__ import annotations

import io
from pathlib import Path

import fsspec
import pytest

import svc_dist
from svc_dist.errors import RecipeError
from svc_dist.recipe.load import load_recipe, parse_documents, parse_recipe
from tests.support.checkpoints import write_llamas

TEXT = (
    "merge_method: linear\nmodels:\n- {model: 'X/a', parameters: {weight: 1}}\n- {model: b, parameters: {weight: 1}}\n"
)


def test_variables_of_the_environment_in_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "/data/models")
    text = TEXT.replace("X", "${MODELS}")
    (document,) = parse_documents(text, "r.yaml", "/recipes")
    assert [model.location for model in document.recipe.models] == ["/data/models/a", "/recipes/b"]
    monkeypatch.delenv("MODELS")
    with pytest.raises(RecipeError, match=r"r\.yaml:3 \(models\[0\]\.model\): the environment variable MODELS is not"):
        parse_documents(text, "r.yaml", "/recipes")
    with pytest.raises(RecipeError, match="is a credential by its name"):
        parse_documents(TEXT.replace("X", "${HF_TOKEN}"), "r.yaml", "/recipes")


def test_a_recipe_from_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT.replace("X/a", "./a")))
    recipe = load_recipe("-")
    assert (recipe.origin.name, recipe.models[1].location) == ("standard input", str(tmp_path / "b"))


def test_a_recipe_on_a_storage_names_models_beside_it(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    base, one, _ = write_llamas(tmp_path / "models")
    for model in (base, one):
        store.put(str(model), f"/recipes/{model.name}", recursive=True)
    with store.open("/recipes/r.yaml", "w") as file:
        file.write(TEXT.replace("X/a", f"./{base.name}").replace("model: b", f"model: {one.name}"))
    plan = svc_dist.make_plan("memory://recipes/r.yaml")
    assert [model.location for model in plan.models] == [f"memory://recipes/{model.name}" for model in (base, one)]
    with pytest.raises(RecipeError, match="cannot read the recipe memory://recipes/x: no such file"):
        load_recipe("memory://recipes/x")


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*: No such file"):
        load_recipe(tmp_path / "none.yaml")
    assert parse_recipe(TEXT.replace("X/a", "/a"), "r.yaml", tmp_path).models[1].location == str(tmp_path / "b")
