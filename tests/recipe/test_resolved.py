"""A recipe is resolved once: what it leaves to defaults is in place, and options change it without its text."""

from __future__ import annotations

import pytest

from svc_dist.errors import RecipeError
from svc_dist.recipe.load import load_recipe, recipe_from
from svc_dist.storage.access import Access, ClientOptions
from tests.support.recipes import MINIMAL, locations, resolved

STORAGE = MINIMAL + "storage: {'s3://own/': {region: here}}"


def test_the_plain_form_of_a_recipe_resolves_to_the_same() -> None:
    recipe = resolved(MINIMAL + "calibrate: svc\nmax_shard_size: 4GiB")
    assert recipe.max_shard_size == recipe.plain["max_shard_size"] == 4 * 2**30
    again = recipe_from(recipe.plain)
    assert (again.results, locations(again), again.plain) == (recipe.results, locations(recipe), recipe.plain)


def test_a_shard_size_given_as_an_option_is_in_the_plain_form() -> None:
    recipe = load_recipe(resolved(MINIMAL), max_shard_size="4GiB")
    assert recipe.max_shard_size == recipe.plain["max_shard_size"] == 4 * 2**30
    assert resolved(MINIMAL).max_shard_size == 5 * 10**9
    with pytest.raises(RecipeError, match="'huge' is not a size"):
        load_recipe(resolved(MINIMAL), max_shard_size="huge")


def test_a_recipes_storage_options_win_over_those_of_the_caller() -> None:
    mine = Access({"s3://own/": ClientOptions(profile="work", region="there"), "s3://": ClientOptions(region="x")}, 4)
    access = load_recipe(resolved(STORAGE), access=mine).access
    assert access.options["s3://own/"] == ClientOptions(profile="work", region="here")
    assert access.options["s3://"] == ClientOptions(region="x")
    assert access.parallel == 4


def test_a_resolved_recipe_keeps_its_access_where_the_caller_says_nothing() -> None:
    recipe = resolved(STORAGE)
    assert load_recipe(recipe) is recipe
    assert load_recipe(load_recipe(recipe, access=Access(timeout=5.0))).access.timeout == 5.0


def test_a_fallback_has_an_effect_where_a_rule_names_a_spectral_method() -> None:
    text = MINIMAL.replace("two", "two\n    parameters: {weight: 1}") + "fallback: linear\n"
    assert resolved(text).warnings == (
        "r.yaml:8 (fallback): has no effect: task_arithmetic merges every tensor [no-effect]",
    )
    assert resolved(text + "rules: [{match: '*.mlp.*', merge_method: tsv_m}]").warnings == ()
