"""A rule names the models that take part: their parameters, their base, and what it may not name.

The keys are those of svc_dist.recipe.rules.keys; tests/recipe/test_choices.py has those of
svc_dist.recipe.rules.calibrations.
"""

from __future__ import annotations

import pytest

from svc_dist.recipe.choices import MergeChoice
from tests.support.recipes import chosen, refused

THREE = "models: [{model: one}, {model: two}, {model: three}]\n"
OVER_BASE = f"base_model: base\nmerge_method: ties\n{THREE}"
AVERAGE = f"merge_method: linear\nparameters: {{weight: 1.0}}\n{THREE}"


def rule(text: str) -> MergeChoice:
    choice = chosen(text).rules[0]
    assert isinstance(choice, MergeChoice)
    return choice


def test_a_rule_merges_only_the_models_that_it_names_over_the_recipes_base() -> None:
    assert rule(OVER_BASE + "rules: [{match: '*mlp*', models: [three, one]}]").models == (0, 3, 1)
    assert rule(OVER_BASE + "rules: [{match: '*mlp*', merge_method: linear}]").models is None


def test_parameters_come_from_the_rules_model_the_rule_the_model_and_the_recipe() -> None:
    text = """\
base_model: base
merge_method: task_arithmetic
parameters: {weight: 0.1}
models: [{model: one, parameters: {weight: 0.2}}, {model: two, parameters: {weight: 0.3}}, {model: three}]
rules: [{match: '*mlp*', models: [{model: one, parameters: {weight: 0.9}}, two, three]}]
"""
    assert rule(text).parameters["weight"] == [0.9, 0.3, 0.1]
    text = text.replace("match: '*mlp*'", "match: '*mlp*', parameters: {weight: 0.5}")
    assert rule(text).parameters["weight"] == [0.9, 0.5, 0.5]


def test_without_a_base_the_first_model_that_is_named_takes_its_place() -> None:
    choice = rule(AVERAGE + "rules: [{match: '*mlp*', models: [three, two]}]")
    assert choice.models == (2, 1)
    assert (choice.parameters["weight"], choice.parameters["base_weight"]) == ([1.0], 1.0)


def test_a_base_that_is_not_named_has_no_part_in_an_average() -> None:
    text = f"base_model: base\n{AVERAGE}rules: [{{match: '*mlp*', models: [two, three]}}]"
    assert rule(text).models == (2, 3)


def test_a_rule_names_another_base() -> None:
    choice = rule(OVER_BASE + "rules: [{match: '*mlp*', models: [one, two], base_model: two}]")
    assert choice.models == (2, 1)
    choice = rule(OVER_BASE + "rules: [{match: '*mlp*', base_model: two}]")
    assert choice.models == (2, 1, 3)


def test_one_model_passes_through_without_a_base() -> None:
    choice = rule(AVERAGE + "rules: [{match: '*mlp*', models: two, merge_method: passthrough}]")
    assert choice.models == (1, 1)
    assert choice.parameters == {"scale": [1.0]}
    assert chosen("merge_method: passthrough\nmodels: [{model: one}]").default.models == (0, 0)
    assert rule(AVERAGE + "rules: [{match: '*mlp*', models: two}]").models == (1, 1)


def test_what_a_spectral_method_cannot_take_is_merged_from_the_same_models() -> None:
    choice = rule(OVER_BASE + "rules: [{match: '*mlp*', models: [one, two], merge_method: tsv_m}]")
    assert choice.fallback is not None
    assert (choice.fallback.method, choice.fallback.models) == ("linear", (0, 1, 2))


def test_a_last_rule_for_all_names_takes_the_place_of_the_recipes_own_choice() -> None:
    text = THREE + "merge_method: slerp\nparameters: {t: 0.5}\n"
    assert "slerp takes exactly one expert" in refused("base_model: base\n" + text)
    assert chosen(text + "rules: [{match: '*', models: [one, two], base_model: one}]").default.models == (0, 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("models: [one, one]", "(rules[0].models[1]): /recipes/one is named twice"),
        ("models: [four]", "(rules[0].models[0]): no model is called 'four'"),
        ("models: []", "(rules[0].models)"),
        ("models: [one], merge_method: ties, base_model: one", "no expert besides the base"),
        ("models: [one, two], merge_method: passthrough", "passthrough takes exactly one model"),
        ("models: [{model: one, parameters: {wight: 1}}]", "(rules[0].models[0].parameters.wight): ties takes no"),
        ("models: [one], keep: base", "a rule with keep takes no other key"),
        ("layer_range: [4, 2], keep: base", "[4, 2] is no range of layers"),
    ],
)
def test_what_a_rule_may_not_name(line: str, words: str) -> None:
    assert words in refused(OVER_BASE + f"rules: [{{match: '*mlp*', {line}}}]")


def test_changes_need_a_base() -> None:
    text = AVERAGE + "rules: [{match: '*mlp*', models: [one, two], merge_method: ties}]"
    assert "(rules[0]): ties needs a base" in refused(text)
