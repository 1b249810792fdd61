"""A recipe is strict: what it says has an effect or is an error with its key, its line and what would be right.

What mergekit ignores is the exception: tests/recipe/mergekit."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from svc_dist.errors import RecipeError
from svc_dist.recipe.load import load_recipe, recipe_from
from tests.support.recipes import MINIMAL, refused, resolved

#: A recipe that mergekit could not run.
SPECTRAL = MINIMAL.replace("task_arithmetic", "tsv_m")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("calibrat: svc", "r.yaml:7 (calibrat): unknown key 'calibrat'; did you mean 'calibrate'?"),
        ("rule: []", "r.yaml:7 (rule): unknown key 'rule'; did you mean 'rules'?"),
        ("rules: [{match: '*', keeps: base}]", "(rules[0].keeps): unknown key 'keeps'; did you mean 'keep'?"),
        ("rules: [{match: '*', methd: x, keep: base}]", "rules[0].methd"),
        ("untie: true\nparameters: {lamda: 1}", "r.yaml:8 (parameters.lamda): task_arithmetic takes no parameter"),
        ("untie: true\nparameters: {lamda: 1}", "did you mean 'lambda'?"),
        ("parameters: {lambda: big}", "lambda is 'big', but must be a number"),
        ("parameters: {lambda: '0.3x'}", "lambda is '0.3x', but must be a number"),
        ("parameters: {lambda: .nan}", "lambda is nan, but must be a number"),
        ("parameters: {lambda: true}", "lambda is True, but must be a number"),
        ("parameters: {lambda: [0.1, x]}", "r.yaml:7 (parameters.lambda): task_arithmetic: lambda is 'x', but must be"),
        ("parameters: {lambda: []}", "task_arithmetic: an empty list"),
        ("parameters: {lambda: [{filter: a, value: x}]}", "lambda is 'x', but must be a number"),
        ("parameters: {lambda: {filter: a, value: [1, x]}}", "lambda is 'x', but must be a number"),
        ("parameters: {lambda: [{filter: a, value: 1}, 2]}", "2 is not a condition\n  write {filter: part of a name"),
        ("parameters: {lambda: [{filter: a}]}", "{'filter': 'a'} is not a condition"),
        ("parameters: {lambda: [{filtre: a, value: 1}]}", "is not a condition"),
        ("parameters: {lambda: [{filter: 3, value: 1}]}", "the filter 3 is not text"),
        (f"parameters: {{lambda: {'9' * 400}}}", "but must be a number"),
        ("parameters: {normalize: 2}", "normalize is 2, but must be true or false"),
        ("parameters: {normalize: maybe}", "normalize is 'maybe', but must be true or false"),
        ("parameters: x", "r.yaml:7 (parameters): 'x' must be a mapping"),
        ("calibrate: {method: svc, alpha: 0}", "r.yaml:7 (calibrate.alpha): svc: alpha is 0, but must be"),
        ("calibrate:\n  method: svc\n  side: up", "r.yaml:9 (calibrate.side): svc: side is 'up', but must be one"),
        (
            "rules:\n  - match: a\n    calibrate:\n      method: svc\n      alpha: 0",
            "r.yaml:11 (rules[0].calibrate.alpha): svc: alpha is 0, but must be a number above 0",
        ),
        ("rules:\n  - {match: a, merge_method: slerp}", "r.yaml:8 (rules[0]): slerp takes exactly one expert, not 2"),
        (
            "rules:\n  - match: a\n    merge_method: della\n    parameters: {density: 0.9}",
            "r.yaml:8 (rules[0]): della: density 0.9 with epsilon 0.15",
        ),
        ("fallback: {method: della, parameters: {density: 0.9}}", "r.yaml:7 (fallback): della: density 0.9 with"),
        ("calibrate: {method: svc, side: top}", "side is 'top', but must be one of left, right"),
        ("calibrate: {method: svc, alfa: 1}", "r.yaml:7 (calibrate.alfa): svc takes no parameter 'alfa'"),
        ("calibrate: {method: svc, alfa: 1}", "did you mean 'alpha'?"),
        ("calibrate: {alpha: 1}", "r.yaml:7 (calibrate): the key 'method' is missing"),
        ("calibrate: sv", "there is no calibration 'sv'\n  did you mean 'svc'?"),
        ("calibrate: 3", "r.yaml:7 (calibrate): 3 must be a mapping"),
        ("calibrate: {method: [svc]}", "there is no calibration '['svc']'"),
        ("dtype: bf16", "r.yaml:7 (dtype): 'bf16' is not one of bfloat16, float16, float32, float64"),
        ("dtype: bf16", "; did you mean bfloat16?"),
        ("dtype: Float16", "; did you mean float16?"),
        ("max_shard_size: 5 parsecs", "r.yaml:7 (max_shard_size): '5 parsecs' is not a size"),
        ("max_shard_size: true", "r.yaml:7 (max_shard_size): True is not a size"),
        ("fallback: {method: linear, alpha: 1}", "fallback takes method and parameters, not 'alpha'"),
        ("fallback: {method: [linear]}", "there is no merge method '['linear']'"),
        ("fallback: lineer", "r.yaml:7 (fallback): there is no merge method 'lineer'\n  did you mean 'linear'?"),
        ("rules: [{match: '*', keep: all}]", "r.yaml:7 (rules[0].keep): no model is called 'all'\n  known: base, one"),
        ("rules: [{match: '*'}]", "the rule changes nothing\n  add keep, merge_method, parameters, calibrate"),
        ("rules: [{match: [], keep: base}]", "rules[0].match"),
        ("rules: [{keep: base}]", "r.yaml:7 (rules[0].match): the key 'match' is missing"),
        ("rules: [{match: 3, keep: base}]", "r.yaml:7 (rules[0].match): 3 must be a list"),
        ("rules: {match: '*', keep: base}", "r.yaml:7 (rules): {'match': '*', 'keep': 'base'} must be a list"),
        ("rules: [{match: '*', keep: base, calibrate: svc}]", "a rule with keep takes no other key"),
        ("rules: [{match: '*', keep: base, calibrate: none}]", "a rule with keep takes no other key"),
        ("rules: [{match: '*', keep: base, parameters: {weight: 1}}]", "a rule with keep takes no other key"),
        ("rules: [{match: '*', keep: base, merge_method: linear}]", "a rule with keep takes no other key"),
        ("rules: [{match: '*', merge_method: lineer}]", "(rules[0].merge_method): there is no merge method 'lineer'"),
        ("rules: [{match: '*', merge_method: linear, parameters: {lambda: 1}}]", "linear takes no parameter 'lambda'"),
        ("rules: [{match: '*', calibrate: {method: svc, beta: 1}}]", "(rules[0].calibrate.beta): svc takes no"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_key_line_and_remedy(line: str, words: str) -> None:
    assert words in refused(MINIMAL + line)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            MINIMAL.replace("weight", "weigth"),
            "r.yaml:4 (models[0].parameters.weigth): task_arithmetic takes no parameter",
        ),
        (SPECTRAL.replace("weight: 0.3", "lambda: 2"), "r.yaml:4 (models[0].parameters.lambda): 'lambda' is one value"),
        (SPECTRAL + "zzz: 1", "r.yaml:7 (zzz): unknown key 'zzz'; known: base_model, models,"),
        (SPECTRAL, "r.yaml:4 (models[0].parameters.weight): tsv_m takes no parameter 'weight'"),
        (MINIMAL.replace("weight: 0.3", "weight: .inf"), "weight is inf, but must be a number"),
        (
            MINIMAL.replace("model: two", "modell: two"),
            "r.yaml:5 (models[1].modell): unknown key 'modell'; did you mean",
        ),
        (MINIMAL.replace("model: two", "model: one"), "r.yaml:5 (models[1].model): /recipes/one is listed twice"),
        (MINIMAL.replace("model: two", "model: ./x/../one/"), "/recipes/one is listed twice"),
        (MINIMAL.replace("model: two", "model: 2"), "r.yaml:5 (models[1].model): 2 must be text"),
        (MINIMAL.replace("model: two", "model: ''"), "models[1].model"),
        (MINIMAL.replace("  - model: two\n", "  - two\n"), "r.yaml:5 (models[1]): 'two' must be a mapping"),
        (MINIMAL.replace("base_model: base\n", ""), "task_arithmetic needs base_model"),
        (MINIMAL.replace("task_arithmetic", "task_arithmatic"), "did you mean 'task_arithmetic'?"),
        (
            MINIMAL.replace("task_arithmetic", "slerp").replace("{weight: 0.3}", "{}"),
            "(merge_method): slerp takes exactly one",
        ),
        (
            "base_model: b\nmodels: [{model: a}]\nmerge_method: della\nparameters:\n  density: 0.9",
            "r.yaml:4 (parameters): della: density 0.9 with epsilon 0.15",
        ),
        (MINIMAL.replace("merge_method: task_arithmetic\n", ""), "the key 'merge_method' is missing"),
        ("base_model: b\nmodels: []\nmerge_method: linear", "r.yaml:2 (models)"),
        ("base_model: b\nmodels: [{model: b}]\nmerge_method: linear", "no expert besides the base"),
        ("", "a recipe must be a mapping with base_model, models and merge_method"),
        ("- a", "a recipe must be a mapping with base_model, models and merge_method"),
        ("just text", "a recipe must be a mapping"),
        (MINIMAL + "dtype: float32\ndtype: float16", "r.yaml:8: duplicate key 'dtype'"),
    ],
)
def test_models_and_methods_are_checked(text: str, words: str) -> None:
    assert words in refused(text)


def test_everything_wrong_is_told_at_once() -> None:
    message = refused(SPECTRAL.replace("weight: 0.3", "") + "one: 1\ndtype: x\nrule: 3")
    assert all(part in message for part in ("r.yaml:7 (one)", "r.yaml:8 (dtype)", "r.yaml:9 (rule)"))


def test_a_recipe_from_python_is_held_to_the_same_rules() -> None:
    data = yaml.safe_load(MINIMAL)
    assert recipe_from(data, folder="/recipes") == resolved(MINIMAL)
    with pytest.raises(RecipeError, match=r"recipe \(calibrat\): unknown key"):
        recipe_from(data | {"calibrat": "svc"})


def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"base_model: caf\xe9")
    for path, words in (
        (tmp_path / "no.yaml", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "latin.yaml", "UTF-8"),
    ):
        with pytest.raises(RecipeError, match=f"cannot read the recipe {path}: .*{words}"):
            load_recipe(path)


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL.replace("base_model: base", f"base_model: 'https://user:{SECRET}@host/base'"),
        MINIMAL.replace("model: two", f"model: 'https://host/two?X-Amz-Signature={SECRET}'"),
        MINIMAL.replace("model: two", f"model: 'https://host/two?sig={SECRET}'"),
        MINIMAL.replace("model: two", f"model: 'https://host/two?token={SECRET}'"),
        # wrong otherwise, too: whichever problem is told first, the secret is not
        MINIMAL.replace("base_model: base", f"base_model: ['https://user:{SECRET}@host/base']"),
        MINIMAL.replace("- model: two", f"- 'https://user:{SECRET}@host/two'"),
        MINIMAL.replace("- model: two", f"- {{'https://host/two?sig={SECRET}': 1}}"),
        MINIMAL.replace("task_arithmetic", "nosuch").replace(
            "base_model: base", f"base_model: 'https://u:{SECRET}@h/b'"
        ),
    ],
)
def test_credentials_in_urls_are_refused_with_their_line_and_not_repeated(text: str) -> None:
    message = refused(text)
    assert "r.yaml:" in message
    assert SECRET not in message


def test_credentials_are_told_apart_and_where_they_belong() -> None:
    message = refused(MINIMAL.replace("model: two", f"model: 'https://host/two?X-Amz-Signature={SECRET}'"))
    assert message.startswith("r.yaml:5 (models[1].model): the https URL carries a credential")
    assert "'X-Amz-Signature'" in message
    assert "environment" in message
