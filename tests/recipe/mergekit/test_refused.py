"""Recipes of mergekit's other programs are refused by name."""

from __future__ import annotations

import pytest

from svc_dist.methods.registry import METHODS
from svc_dist.recipe.mergekit.refused import method_hint
from tests.support.recipes import MINIMAL, refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base_model: b\ngate_mode: hidden\nexperts: []", "r.yaml:3 (experts): this is a recipe for mergekit-moe"),
        ("merge_method: moe\nbase_model: b\nexperts: []", "r.yaml:1 (merge_method): this is a recipe for mergekit-moe"),
        ("genome: {models: []}\ntasks: []", "r.yaml:1 (genome): this is a recipe for mergekit-evolve"),
        ("layer_slices: []", "r.yaml:1 (layer_slices): this is a recipe for bakllama, which svc_dist does not replace"),
    ],
)
def test_a_recipe_of_another_program_is_refused(text: str, words: str) -> None:
    assert words in refused(text)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("TIES", "did you mean 'ties'?"),
        ("dare-ties", "did you mean 'dare_ties'?"),
        ("Model Stock", "did you mean 'model_stock'?"),
        ("dare", "did you mean 'dare_ties' or 'dare_linear'?"),
        ("frankenmerge", "did you mean 'passthrough'?"),
        ("lineer", "did you mean 'linear'?"),
        ("task_arithmatic", "did you mean 'task_arithmetic'?"),
    ],
)
def test_another_name_of_a_method_is_answered_with_the_method(name: str, hint: str) -> None:
    assert method_hint(name, list(METHODS)) == hint
    assert f"there is no merge method '{name}'\n  {hint}" in refused(MINIMAL.replace("task_arithmetic", name))
