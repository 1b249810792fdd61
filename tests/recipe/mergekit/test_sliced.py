"""Slices that mean nothing are refused with their line; what mergekit ignores, or means otherwise, is a warning."""

from __future__ import annotations

import pytest

from tests.support.recipes import refused, resolved

ONE = "{model: one, layer_range: [0, 16]}"
TWO = "{model: two, layer_range: [16, 32]}"


def recipe(slices: str) -> str:
    return f"merge_method: linear\nparameters: {{weight: 0.5}}\nslices: {slices}\n"


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        ("[]", "(slices): a recipe has one of models, slices and modules, but here it is empty"),
        ("[{sources: []}]", "(slices[0].sources): [] must be a list"),
        ("[{source: 1}]", "(slices[0]): the key 'sources' is missing"),
        ("[{sources: [{model: one}]}]", "(slices[0].sources[0]): the key 'layer_range' is missing"),
        ("[{sources: [{layer_range: [0, 2]}]}]", "the key 'model' is missing"),
        ("[{sources: [{model: one, layer_range: 3}]}]", "3 is no range of layers"),
        ("[{sources: [{model: one, layer_range: [0, 2]}, {model: two, layer_range: [0, 3]}]}]", "have 2 and 3 layers"),
        (f"[{{sources: [{ONE}, {ONE}]}}]", "one is listed twice in this slice, which mergekit refuses as well"),
        (f"[{{sources: [{ONE}], parameters: 3}}]", "(slices[0].parameters): 3 must be a mapping"),
    ],
)
def test_what_makes_no_sense_is_refused(slices: str, words: str) -> None:
    assert words in refused(recipe(slices))


def test_a_recipe_has_either_models_or_slices() -> None:
    text = recipe(f"[{{sources: [{ONE}]}}]")
    assert "this one has slices and models" in refused(text + "models: [{model: one}]")


def test_an_average_of_other_layers_is_warned_of() -> None:
    (warning,) = resolved(recipe(f"[{{sources: [{ONE}, {TWO}]}}]")).warnings
    assert "merges layers 0 to 15 of one with layers 16 to 31 of two into 16 layers of the result" in warning


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ("{vision_tower: {}}", "(modules.vision_tower): a module has either models or slices"),
        ("3", "(modules): 3 must be a mapping"),
        (
            f"{{vision_tower: {{slices: [{{sources: [{ONE}]}}, {{sources: [{TWO}]}}]}}}}",
            "svc_dist assembles layers of the language model only",
        ),
        ("{decoder: {models: [{model: one}]}, default: {models: [{model: one}]}}", "are the same part"),
    ],
)
def test_modules_that_make_no_sense_are_refused(modules: str, words: str) -> None:
    assert words in refused(recipe("[]").replace("slices: []", f"modules: {modules}"))
