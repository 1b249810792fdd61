"""A recipe is strict: what it says has an effect or is an error with its key, its line and what would be right."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from svc_dist.errors import ExitCode, RecipeError
from svc_dist.recipe.choices import KeepChoice, MergeChoice, ResultChoices
from svc_dist.recipe.load import load_recipe, parse_recipe, recipe_from
from svc_dist.recipe.resolved import ResolvedRecipe

MINIMAL = """\
base_model: base
models:
  - model: one
    parameters: {weight: 0.3}
  - model: two
merge_method: task_arithmetic
"""


def resolved(text: str) -> ResolvedRecipe:
    return parse_recipe(text, "r.yaml", "/recipes")


def locations(recipe: ResolvedRecipe) -> list[str]:
    """Of the base and the experts."""
    return [model.location for model in recipe.models]


def chosen(text: str) -> ResultChoices:
    """The choices of a recipe with one result."""
    (result,) = resolved(text).results
    return result


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml", "/recipes")
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return str(caught.value)


def test_a_minimal_recipe_means_what_it_does_in_mergekit() -> None:
    assert locations(resolved(MINIMAL)) == ["/recipes/base", "/recipes/one", "/recipes/two"]
    found = chosen(MINIMAL)
    assert found.default.method == "task_arithmetic"
    assert found.default.parameters == {"weight": [0.3, 1.0], "normalize": False, "lambda": 1.0}
    assert found.default.calibration is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("calibrat: svc", "r.yaml:7 (calibrat): unknown key 'calibrat'; did you mean 'calibrate'?"),
        ("rule: []", "r.yaml:7 (rule): unknown key 'rule'; did you mean 'rules'?"),
        ("zzz: 1", "unknown key 'zzz'; known: base_model, models,"),
        ("rules: [{match: '*', keeps: base}]", "(rules[0].keeps): unknown key 'keeps'; did you mean 'keep'?"),
        ("rules: [{match: '*', methd: x, keep: base}]", "rules[0].methd"),
        ("parameters: {lamda: 1}", "r.yaml:7 (parameters.lamda): task_arithmetic takes no parameter 'lamda'"),
        ("parameters: {lamda: 1}", "did you mean 'lambda'?"),
        ("parameters: {density: 0.5}", "task_arithmetic takes no parameter 'density'"),
        ("parameters: {lambda: big}", "lambda is 'big', but must be a number"),
        ("parameters: {lambda: '0.3'}", "lambda is '0.3', but must be a number"),
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
        ("parameters: {normalize: 1}", "normalize is 1, but must be true or false"),
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
        ("max_shard_size: 5 parsecs", "r.yaml:7 (max_shard_size): '5 parsecs' is not a size"),
        ("max_shard_size: true", "r.yaml:7 (max_shard_size): True is not a size"),
        ("fallback: {method: linear, alpha: 1}", "fallback takes method and parameters, not 'alpha'"),
        ("fallback: {method: [linear]}", "there is no merge method '['linear']'"),
        ("fallback: lineer", "r.yaml:7 (fallback): there is no merge method 'lineer'\n  did you mean 'linear'?"),
        ("rules: [{match: '*', keep: all}]", "r.yaml:7 (rules[0].keep): no model is called 'all'\n  known: base, one"),
        ("rules: [{match: '*'}]", "the rule says nothing\n  give it keep, merge_method, parameters, calibrate"),
        ("rules: [{match: [], keep: base}]", "rules[0].match"),
        ("rules: [{keep: base}]", "r.yaml:7 (rules[0].match): the key 'match' is missing"),
        ("rules: [{match: 3, keep: base}]", "r.yaml:7 (rules[0].match): 3 must be a list"),
        ("rules: {match: '*', keep: base}", "r.yaml:7 (rules): {'match': '*', 'keep': 'base'} must be a list"),
        ("rules: [{match: '*', keep: base, calibrate: svc}]", "a rule with keep takes nothing else but match"),
        ("rules: [{match: '*', keep: base, calibrate: none}]", "a rule with keep takes nothing else but match"),
        ("rules: [{match: '*', keep: base, parameters: {weight: 1}}]", "a rule with keep takes nothing else but match"),
        ("rules: [{match: '*', keep: base, merge_method: linear}]", "a rule with keep takes nothing else but match"),
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
        (MINIMAL.replace("weight", "wait"), "r.yaml:4 (models[0].parameters.wait): task_arithmetic takes no parameter"),
        (MINIMAL.replace("weight: 0.3", "lambda: 2"), "r.yaml:4 (models[0].parameters.lambda): 'lambda' is one value"),
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
        (MINIMAL.replace("base_model: base\n", ""), "merge_method task_arithmetic needs base_model"),
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
        ("", "a recipe is a mapping with base_model, models and merge_method"),
        ("- a", "a recipe is a mapping with base_model, models and merge_method"),
        ("just text", "a recipe is a mapping"),
        (MINIMAL + "dtype: float32\ndtype: float16", "r.yaml:8: the key 'dtype' stands here a second time"),
    ],
)
def test_models_and_methods_are_checked(text: str, words: str) -> None:
    assert words in refused(text)


def test_everything_wrong_is_told_at_once() -> None:
    message = refused(MINIMAL + "one: 1\ndtype: x\nrule: 3")
    assert all(part in message for part in ("r.yaml:7 (one)", "r.yaml:8 (dtype)", "r.yaml:9 (rule)"))


@pytest.mark.parametrize(
    ("calibrate", "expected"),
    [
        ("svc", {"method": "svc", "alpha": 0.5, "side": "left"}),
        ("{method: svc}", {"method": "svc", "alpha": 0.5, "side": "left"}),
        ("{method: svc, alpha: 1}", {"method": "svc", "alpha": 1.0, "side": "left"}),
        ("{method: svc, alpha: 1e-1, side: right}", {"method": "svc", "alpha": 0.1, "side": "right"}),
        ("none", None),
        ("null", None),
    ],
)
def test_calibration_in_all_its_forms(calibrate: str, expected: object) -> None:
    assert chosen(MINIMAL + f"calibrate: {calibrate}").default.calibration == expected


def test_rules_inherit_what_they_do_not_set() -> None:
    found = chosen(
        MINIMAL
        + """\
parameters: {weight: 0.5, lambda: 0.7}
calibrate: svc
rules:
  - {match: a, keep: base}
  - {match: b, calibrate: none}
  - {match: c, parameters: {weight: 0.9}}
  - {match: d, merge_method: linear}
  - {match: [e, f], calibrate: {method: svc, alpha: 1.0}}
"""
    ).rules
    assert found[0] == KeepChoice(0)
    plain = {"weight": [0.3, 0.5], "normalize": False, "lambda": 0.7}
    half = {"method": "svc", "alpha": 0.5, "side": "left"}
    assert [(c.method, c.parameters, c.calibration) for c in found if isinstance(c, MergeChoice)] == [
        ("task_arithmetic", plain, None),
        ("task_arithmetic", {**plain, "weight": [0.9, 0.9]}, half),
        ("linear", {"weight": [0.3, 0.5], "normalize": True, "base_weight": 0.0}, half),
        ("task_arithmetic", plain, {**half, "alpha": 1.0}),
    ]


def linear(models: str, **keys: Any) -> ResolvedRecipe:
    return resolved(yaml.safe_dump({"merge_method": "linear", **keys}) + f"models: {models}")


def test_the_base_takes_part_in_linear_when_it_is_listed() -> None:
    found = linear("[{model: base, parameters: {weight: 2}}, {model: one}]", base_model="base")
    assert locations(found) == ["/recipes/base", "/recipes/one"]
    assert found.results[0].default.parameters == {"weight": [1.0], "normalize": True, "base_weight": 2.0}


def test_the_base_takes_no_part_in_linear_when_it_is_not_listed() -> None:
    assert linear("[{model: one}]", base_model="base").results[0].default.parameters["base_weight"] == 0.0


def test_linear_does_without_a_base() -> None:
    found = linear("[{model: one, parameters: {weight: 3}}, {model: two}]")
    assert locations(found) == ["/recipes/one", "/recipes/two"]
    assert found.results[0].default.parameters == {"weight": [1.0], "normalize": True, "base_weight": 3.0}


@pytest.mark.parametrize(
    "text",
    [
        "{model: one, parameters: {weight: 0}}, {model: two, parameters: {weight: 0}}",
        "{model: one, parameters: {weight: 1}}, {model: two, parameters: {weight: -1}}",
    ],
)
def test_weights_that_add_up_to_nothing_cannot_be_normalized(text: str) -> None:
    recipe = f"base_model: base\nmerge_method: task_arithmetic\nmodels: [{text}]\n"
    assert chosen(recipe).default.parameters["normalize"] is False
    message = refused(recipe + "parameters: {normalize: true}")
    assert "r.yaml:3 (models): task_arithmetic: the weights add up to zero" in message
    assert "normalize: false" in message


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
        (NAMED.replace("KEEP", "audio").replace("models/vl,", "x/audio,"), "'audio' may be /recipes/x/audio or s3://"),
        (NAMED.replace("KEEP", "audio").replace("name: vision", "name: audio"), "give the models a `name`"),
        (NAMED.replace("name: vision", "name: owner"), "r.yaml:3 (models[0].name): 'owner' is taken"),
        (MINIMAL + "config_source: three", "r.yaml:7 (config_source): no model is called 'three'"),
        (MINIMAL + "vocab: all", "r.yaml:7 (vocab): Input should be 'base' or 'error'"),
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


def test_a_recipe_from_python_is_held_to_the_same_rules() -> None:
    data = yaml.safe_load(MINIMAL)
    assert recipe_from(data, folder="/recipes") == resolved(MINIMAL)
    with pytest.raises(RecipeError, match=r"recipe \(calibrat\): unknown key"):
        recipe_from(data | {"calibrat": "svc"})


def test_the_plain_form_of_a_recipe_resolves_to_the_same() -> None:
    recipe = resolved(MINIMAL + "calibrate: svc\nmax_shard_size: 4GiB")
    assert recipe.max_shard_size == recipe.plain["max_shard_size"] == 4 * 2**30
    again = recipe_from(recipe.plain)
    assert (again.results, locations(again), again.plain) == (recipe.results, locations(recipe), recipe.plain)


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
