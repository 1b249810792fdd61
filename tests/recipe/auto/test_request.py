"""``auto`` in a recipe: what it may stand for, what is refused with a line and a cure, and what is filled in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from svc_dist.methods.auto.choice import AutoChoice
from svc_dist.methods.auto.features import Features
from svc_dist.recipe.choices import MergeChoice
from svc_dist.recipe.load import parse_recipe
from tests.support.recipes import refused, resolved

HEAD = "base_model: base\nmodels: [{model: one}, {model: two}]\n"
AUTO = HEAD + "merge_method: auto\n"
KEYS = {"merge_method": "swudi_a", "parameters": {"rank_rule": "entropy"}, "calibrate": {"method": "svc"}}


@pytest.mark.parametrize(
    ("more", "line", "said"),
    [
        ("parameters: {lambda: 0.3}\n", "r.yaml:4 (parameters)", "together with the merge method"),
        ("outputs: [{path: a, lambda: 0.3}]\n", "r.yaml:4 (outputs[0].lambda)", "together with the merge method"),
        ("outputs: [{path: a, calibrate: auto}]\n", "r.yaml:4 (outputs[0].calibrate)", "one calibration for the whole"),
        ("rules: [{match: '*mlp*', calibrate: auto}]\n", "r.yaml:4 (rules[0].calibrate)", "one calibration for the"),
        ("rules: [{match: '*', parameters: {weight: 1}}]\n", "r.yaml:4 (rules[0].parameters)", "together with the"),
        ("calibrate: [svc, auto]\n", "r.yaml:4 (calibrate)", "one calibration for the whole"),
        ("calibrate: {method: auto, alpha: 1}\n", "r.yaml:4 (calibrate)", "one calibration for the whole"),
    ],
)
def test_what_auto_cannot_choose_is_refused(more: str, line: str, said: str) -> None:
    message = refused(AUTO + more)
    assert message.startswith(line)
    assert said in message


def test_weights_of_models_are_refused() -> None:
    text = "base_model: base\nmodels:\n- model: one\n  parameters: {weight: 0.3}\n- model: two\nmerge_method: auto\n"
    assert refused(text).startswith("r.yaml:4 (models[0].parameters): auto chooses the parameters together")


def test_a_rule_cannot_ask_where_the_recipe_names_its_method() -> None:
    message = refused(HEAD + "merge_method: ties\nrules: [{match: '*', merge_method: auto}]\n")
    assert message.startswith("r.yaml:4 (rules[0].merge_method): auto chooses one merge method for the whole recipe")


def test_auto_needs_a_base() -> None:
    assert "auto compares experts with a base" in refused("models: [{model: one}, {model: two}]\nmerge_method: auto\n")


def test_nothing_is_left_to_auto_by_default() -> None:
    assert resolved(HEAD + "merge_method: ties\n").auto is None


def test_chosen_keys_make_the_recipe_that_names_them() -> None:
    left = resolved(AUTO)
    assert left.auto is not None
    assert left.auto.asked == {"merge_method": "auto", "calibrate": None}
    named = resolved(HEAD + "merge_method: swudi_a\nparameters: {rank_rule: entropy}\ncalibrate: svc\n")
    assert left.chosen(KEYS) == named


def test_a_rule_takes_what_is_chosen_and_keeps_what_it_names() -> None:
    rules = "rules: [{match: a*, merge_method: ties}, {match: b*, merge_method: auto}, {match: c*, calibrate: none}]\n"
    chosen = resolved(AUTO + rules).chosen(KEYS)
    choices = [rule for rule in chosen.results[0].rules if isinstance(rule, MergeChoice)]
    assert [one.method for one in choices] == ["ties", "swudi_a", "swudi_a"]
    assert [one.calibration is None for one in choices] == [False, False, True]
    assert [rule.merge_method for rule in chosen.rules] == ["ties", "swudi_a", None]
    assert [rule.get("merge_method") for rule in chosen.plain["rules"]] == ["ties", "swudi_a", None]


def test_a_preset_that_merges_the_language_model_alone_takes_it() -> None:
    chosen = resolved(AUTO + "preset: llm-backbone-only\n").chosen(KEYS)
    assert {rule.method for rule in chosen.results[0].rules if isinstance(rule, MergeChoice)} == {"swudi_a"}


def test_a_calibration_alone() -> None:
    left = resolved(HEAD + "merge_method: ties\nparameters: {density: 0.5}\ncalibrate: auto\n")
    assert left.auto is not None
    assert left.auto.asked == {"merge_method": "ties", "calibrate": "auto", "parameters": {"density": 0.5}}
    named = resolved(HEAD + "merge_method: ties\nparameters: {density: 0.5}\ncalibrate: svc\n")
    assert left.chosen({"calibrate": {"method": "svc"}}) == named


def test_a_named_calibration_stays() -> None:
    left = resolved(AUTO + "calibrate: none\n")
    chosen = left.chosen({key: KEYS[key] for key in ("merge_method", "parameters")})
    assert chosen.results[0].default.calibration is None


def test_warnings_are_about_the_chosen_method() -> None:
    left = resolved(AUTO + "fallback: linear\n")
    assert not left.warnings
    assert not left.chosen(KEYS).warnings
    sums = {"merge_method": "task_arithmetic", "parameters": {}, "calibrate": {"method": "none"}}
    assert "task_arithmetic merges every tensor" in left.chosen(sums).warnings[0]


def test_a_recorded_choice_counts_for_the_same_request_and_models() -> None:
    left = parse_recipe(AUTO, "r.yaml", "/recipes").auto
    assert left is not None
    features = Features(2, 0.0, 1.0, 0.0, 1.0, 0.5, (0.1, 0.1), 1, 1)
    choice = AutoChoice(dict(left.asked), KEYS, "", "", features)
    known = replace(left, recorded=(choice, ("model",)))
    assert known.recorded_for(["model"]) == choice
    assert known.recorded_for(["another"]) is None
    assert replace(known, asked={"merge_method": "ties", "calibrate": "auto"}).recorded_for(["model"]) is None
    assert left.recorded_for(["model"]) is None
