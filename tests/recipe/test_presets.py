"""Presets fill in what a recipe leaves out, and everything they do is visible."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from svc_dist.cli.methods_page import render
from svc_dist.errors import RecipeError
from svc_dist.recipe.load import recipe_from
from svc_dist.recipe.presets import PRESETS
from tests.support.checkpoints import recipe_data, write_llamas

MODELS = {"base_model": "b", "models": [{"model": "e0"}, {"model": "e1"}]}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_recipe_whose_values_are_shown(name: str, tmp_path: Path) -> None:
    models = write_llamas(tmp_path, experts=2)
    method = PRESETS[name].values.get("merge_method", "ties")
    recipe = recipe_data(models, method, preset=name)
    plan = svc_dist.make_plan(recipe)
    assert "preset" not in plan.recipe
    assert plan.recipe["merge_method"] == method
    assert plan.recipe["parameters"] == dict(PRESETS[name].values.get("parameters", {}))


def test_what_the_recipe_says_itself_wins() -> None:
    recipe = recipe_from({**MODELS, "preset": "swudi-llama-full", "parameters": {"rank_ratio": 0.5}})
    chosen = recipe.results[0].default
    assert (chosen.parameters["rank_ratio"], chosen.parameters["exp_time"]) == (0.5, 300)


def test_svc_paper_goes_on_top_of_any_method() -> None:
    chosen = recipe_from({**MODELS, "preset": "svc-paper", "merge_method": "ties"}).results[0].default
    assert chosen.method == "ties"
    assert chosen.calibration == {"method": "svc", "alpha": 0.5, "side": "left"}


def test_every_matrix_is_calibrated_where_a_preset_says_so(tmp_path: Path) -> None:
    models = write_llamas(tmp_path, experts=2)
    recipe = {"base_model": str(models[0]), "models": [{"model": str(m)} for m in models[1:]]}
    calibrated = {}
    for name in ("svc-paper", "svc-every-matrix"):
        plan = svc_dist.make_plan({**recipe, "preset": name})
        of = {tensor.name: plan.dispositions(tensor)[0].calibration for tensor in plan.tensors}
        calibrated[name] = {tensor for tensor, calibration in of.items() if calibration is not None}
    added = calibrated["svc-every-matrix"] - calibrated["svc-paper"]
    assert calibrated["svc-paper"]
    assert added == {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"side": "right"}, {"method": "svc", "alpha": 1.0, "side": "right"}),
        ({"method": "svc", "side": "right"}, {"method": "svc", "alpha": 1.0, "side": "right"}),
        ("svc", {"method": "svc", "alpha": 1.0, "side": "left"}),
        ({"alpha": 0.2}, {"method": "svc", "alpha": 0.2, "side": "left"}),
        ("none", None),
        (None, None),
    ],
)
def test_a_calibration_keeps_what_the_recipe_does_not_say_of_it(own: object, expected: object) -> None:
    recipe = recipe_from({**MODELS, "preset": "svc-paper-tsv-m", "calibrate": own})
    assert recipe.results[0].default.calibration == expected


def test_a_presets_rule_may_match_nothing_and_comes_after_the_recipes_own(tmp_path: Path) -> None:
    models = write_llamas(tmp_path, experts=2, head=False)
    rule = {"match": "*embed_tokens.weight", "merge_method": "linear"}
    recipe = {"base_model": str(models[0]), "models": [{"model": str(m)} for m in models[1:]], "rules": [rule]}
    plan = svc_dist.make_plan({**recipe, "preset": "swudi-llama-full"})
    embedding = next(tensor for tensor in plan.tensors if "embed_tokens" in tensor.name)
    assert plan.dispositions(embedding)[0].method == "linear"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"preset": "svc-papr"}, "did you mean 'svc-paper'"),
        ({"preset": "swudi-lora", "merge_method": "ties"}, "for merge_method swudi, but the recipe says ties"),
        ({"preset": "svc-paper", "merge_method": "tsv_m"}, "not for merge_method tsv_m: take svc-paper-tsv-m"),
        ({"preset": "svc-paper", "calibrate": 3}, "calibrate"),
        ({"preset": "swudi-lora", "rules": "none"}, "rules"),
    ],
)
def test_wrong_presets_are_named(keys: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe_from({**MODELS, **keys})


def test_the_docs_page_is_what_the_registry_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    assert page.read_text() == render(), "regenerate it: svc-dist methods --markdown > docs/methods.md"
