"""Where the models of a recipe are, and what the recipe may call them."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.recipe.choices import KeepChoice
from svc_dist.recipe.load import load_recipe, recipe_from
from tests.support.recipes import MINIMAL, locations, refused, resolved

NAMED = """\
base_model: models/base
models:
  - {model: models/vl, name: vision}
  - {model: s3://bucket/a/audio/}
  - {model: hf://owner/video@v1}
merge_method: linear
rules: [{match: x, keep: KEEP}]
"""


@pytest.mark.parametrize(
    ("keep", "source"),
    [
        ("base", 0), ("models/base", 0), ("vision", 1), ("vl", 1), ("models/vl", 1), ("audio", 2),
        ("s3://bucket/a/audio/", 2), ("video", 3), ("hf://owner/video@v1", 3), ("owner", None),
    ],
)  # fmt: skip
def test_a_model_is_called_by_its_name_its_path_or_the_last_part_of_it(keep: str, source: int | None) -> None:
    recipe = resolved(NAMED.replace("KEEP", keep))
    assert recipe.results[0].rules == (KeepChoice(source),)
    assert recipe_from(recipe.plain).results[0].rules == (KeepChoice(source),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            NAMED.replace("KEEP", "vison"),
            "(rules[0].keep): no model is called 'vison'\n  did you mean 'vision'?",
        ),
        (
            NAMED.replace("KEEP", "audio").replace("models/vl,", "x/audio,"),
            "'audio' is ambiguous: /recipes/x/audio or s3://",
        ),
        (NAMED.replace("KEEP", "audio").replace("name: vision", "name: audio"), "give the models a `name`"),
        (NAMED.replace("name: vision", "name: owner"), "r.yaml:3 (models[0].name): 'owner' is reserved"),
        (MINIMAL + "config_source: three", "r.yaml:7 (config_source): no model is called 'three'"),
        (MINIMAL + "vocab: all", "r.yaml:7 (vocab): Input should be 'base', 'common', 'union' or 'error'"),
        (MINIMAL + "rename: {from: a}", "r.yaml:7 (rename[0].to): the key 'to' is missing"),
        (MINIMAL + "rename: {from: a, too: b}", "r.yaml:7 (rename[0].too): unknown key 'too'; did you mean 'to'?"),
        (MINIMAL + f"config_source: 'https://u:{'s3cr3t'}@h/b'", "no model is called 'https://"),
    ],
)
def test_models_and_prefixes_are_named_unambiguously(text: str, words: str) -> None:
    message = refused(text)
    assert words in message
    assert "s3cr3t" not in message


def test_relative_paths_count_from_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/r.yaml").write_text(
        "base_model: ../models/base\nmerge_method: linear\n"
        "models: [{model: ./one}, {model: ~/two}, {model: /abs/three}, {model: 's3://bucket/four/'}]"
    )
    monkeypatch.chdir(tmp_path / "recipes")
    monkeypatch.setenv("HOME", "/home/me")
    assert locations(load_recipe("r.yaml")) == [
        f"{tmp_path}/models/base",
        f"{tmp_path}/recipes/one",
        "/home/me/two",
        "/abs/three",
        "s3://bucket/four",
    ]


def test_use_says_which_of_a_model_and_an_adapter_is_meant() -> None:
    models = "[{model: m, use: model}, {model: a, use: adapter}]"
    recipe = resolved(f"base_model: b\nmodels: {models}\nmerge_method: linear\n")
    assert [model.use for model in recipe.models] == [None, "model", "adapter"]
    assert [recipe.use_of(model.location) for model in recipe.models] == ["model", "model", "adapter"]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("[{model: m, use: both}]", "use"),
        ("[{model: m+a, use: adapter}]", "already says which is meant"),
        ("[{model: b, use: adapter}, {model: m}]", "the base must be a whole model"),
    ],
)
def test_a_use_that_cannot_be(models: str, said: str) -> None:
    assert said in refused(f"base_model: b\nmodels: {models}\nmerge_method: linear\n")
