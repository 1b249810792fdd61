"""only_where of a recipe, of rules and of outputs: which one counts, and what has none."""

from __future__ import annotations

import pytest

from svc_dist.recipe.choices import MergeChoice
from tests.support.recipes import chosen, refused, resolved

MODELS = "base_model: base\nmodels: [{model: one}, {model: two}]\nmerge_method: linear\n"
ASKED = MODELS + "only_where: {relative_difference: 0.5}\n"


def of_rules(text: str) -> list[float | None]:
    return [rule.least_difference for rule in chosen(text).rules if isinstance(rule, MergeChoice)]


def test_a_rules_condition_comes_before_the_recipes() -> None:
    rules = "{match: a, only_where: {relative_difference: 2}}, {match: b, only_where: none}, {match: c, dtype: float32}"
    assert of_rules(f"{ASKED}rules: [{rules}]") == [2.0, None, 0.5]
    assert chosen(ASKED).default.least_difference == 0.5
    assert chosen(MODELS).default.least_difference is None
    assert chosen(MODELS + "only_where: none").default.least_difference is None


def test_outputs_have_their_own_and_grids_of_them() -> None:
    outputs = "outputs: [{path: a}, {path: b, only_where: none}, {grid: {only_where.relative_difference: [0.1, 1]}}]"
    found = {one.path: one.default.least_difference for one in resolved(ASKED + outputs).results}
    assert found == {"a": 0.5, "b": None, "relative_difference-0.1": 0.1, "relative_difference-1": 1.0}


def test_one_model_alone_has_none_and_may_not_ask_for_one() -> None:
    assert of_rules(f"{ASKED}rules: [{{match: a, models: one}}]") == [None]
    said = refused(f"{MODELS}rules: [{{match: a, models: one, only_where: {{relative_difference: 1}}}}]")
    assert "r.yaml:4 (rules[0].only_where): one model passes through alone" in said
    over = "rules: [{match: a, models: one, merge_method: task_arithmetic, only_where: {relative_difference: 1}}]"
    assert of_rules(MODELS + over) == [1.0]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            "only_where: {relative_diference: 1}",
            "'relative_diference'; did you mean 'relative_difference'?",
        ),
        ("only_where: {}", "the key 'relative_difference' is missing"),
        ("only_where: 0.1", "(only_where): 0.1 must be a mapping of keys to values"),
        ("only_where: {relative_difference: .inf}", "should be a finite number"),
        ("only_where: {relative_difference: 1}\noutput: adapter", "(only_where): an adapter is written for every"),
        (
            "rules: [{match: a, keep: base, only_where: {relative_difference: 1}}]",
            "rule with keep takes no other key",
        ),
    ],
)
def test_what_is_refused(keys: str, said: str) -> None:
    assert said in refused(MODELS + keys)
