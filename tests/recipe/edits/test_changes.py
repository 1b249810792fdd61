"""``--set``: values in place of a recipe's, under the same rules, with the option as the place of an error."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.errors import RecipeError
from svc_dist.recipe.edits.changes import parse_changes
from svc_dist.recipe.load import load_recipe, parse_documents, parse_recipe
from svc_dist.recipe.resolved import ResolvedRecipe
from tests.support.recipes import MINIMAL, resolved

RULES = MINIMAL + "calibrate: svc\nrules:\n  - {match: a, keep: base}\n  - {match: b, keep: one}\n"


def changed(*given: str, text: str = MINIMAL) -> ResolvedRecipe:
    return parse_recipe(text, "r.yaml", "/recipes", changes=parse_changes(given))


def refused(*given: str, text: str = MINIMAL) -> str:
    with pytest.raises(RecipeError) as caught:
        changed(*given, text=text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (["parameters.lambda=0.4"], MINIMAL + "parameters: {lambda: 0.4}"),
        (["parameters.lambda=[0, 1]"], MINIMAL + "parameters: {lambda: [0, 1]}"),
        (["models.0.parameters.weight=0.7"], MINIMAL.replace("0.3", "0.7")),
        (["models.one.parameters.weight=7e-1"], MINIMAL.replace("0.3", "0.7")),
        (["models.two.parameters.weight=0.7"], MINIMAL.replace("two", "two\n    parameters: {weight: 0.7}")),
        (["models.one=null"], MINIMAL.replace("  - model: one\n    parameters: {weight: 0.3}\n", "")),
        (["merge_method=ties"], MINIMAL.replace("task_arithmetic", "ties")),
        (["calibrate=svc"], MINIMAL + "calibrate: svc"),
        (["calibrate=svc", "calibrate.alpha=0.6"], MINIMAL + "calibrate: {method: svc, alpha: 0.6}"),
        (["calibrate=[svc, magic]", "calibrate.0.alpha=0.6"],
         MINIMAL + "calibrate: [{method: svc, alpha: 0.6}, magic]"),
        (["calibrate=[svc, magic]", "calibrate.svc.alpha=0.6"],
         MINIMAL + "calibrate: [{method: svc, alpha: 0.6}, magic]"),
        (["rules=[{match: x=y, keep: base}]"], MINIMAL + "rules: [{match: x=y, keep: base}]"),
        (["base_model=/else/base.v1"], MINIMAL.replace("base_model: base", "base_model: /else/base.v1")),
        (['models."two".name="2.5"'], MINIMAL.replace("model: two", "model: two\n    name: '2.5'")),
    ],
)  # fmt: skip
def test_a_change_gives_the_recipe_with_that_value(given: list[str], same: str) -> None:
    assert changed(*given) == resolved(same)
    assert changed(*given).plain == resolved(same).plain


def test_calibration_and_rules_change_in_place() -> None:
    recipe = changed("calibrate=none", "rules.0.keep=two", "rules.1=null", text=RULES)
    assert recipe.results[0].default.calibration is None
    assert [rule.keep for rule in recipe.rules] == ["two"]
    assert changed("calibrate.alpha=0.6", text=RULES).plain["calibrate"] == {"method": "svc", "alpha": 0.6}
    assert "calibrate" not in changed("calibrate=null", text=RULES).plain


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("parameters.lamda=1", "--set parameters.lamda: task_arithmetic takes no parameter 'lamda'"),
        ("parameters.lamda=1", "did you mean 'lambda'?"),
        ("parametres.lambda=1", "--set parametres.lambda: unknown key 'parametres'; did you mean 'parameters'?"),
        ("merge_method=tise", "--set merge_method: there is no merge method 'tise'\n  did you mean 'ties'?"),
        ("calibrate={method: svc, alfa: 1}", "--set calibrate (calibrate.alfa): svc takes no parameter 'alfa'"),
        ("calibrate.alpha=0.5", "--set calibrate.alpha: the key 'method' is missing"),
        ("models.0.parameters.weight=x", "--set models.0.parameters.weight: task_arithmetic: weight is 'x', but"),
        ("models.0.parameters.weight.x=1", "--set models.0.parameters.weight.x: weight is 0.3, which has no keys"),
        ("models.2.name=x", "--set models.2.name: 2 is no entry of models\n  models has 2, from 0"),
        ("models.oen.name=x", "oen is no entry of models\n  models has 2, from 0; did you mean 'one'?"),
        ("rules.0.keep=base", "--set rules.0.keep: 0 is no entry of rules\n  rules has none"),
        ("lambda=1", "--set lambda: a recipe has no key 'lambda'\n  did you mean 'parameters.lambda'?"),
        ("alpha=1", "did you mean 'calibrate.alpha'?"),
        ("parameters.lambda", "--set parameters.lambda: this is not KEY=VALUE\n  write --set KEY=VALUE, like"),
        ("=1", "this is not KEY=VALUE"),
        ("a..b=1", "this is not KEY=VALUE"),
        ("parameters.lambda=[1", "--set parameters.lambda:1: not valid YAML"),
        ("parameters.lambda={a: 1, a: 2}", "--set parameters.lambda:1: duplicate key 'a'"),
        ("calibrate=null", "--set calibrate: the recipe has no key 'calibrate' to remove"),
        ("calibrate.alpha=null", "--set calibrate.alpha: the recipe has no key 'calibrate' to remove"),
    ],
)  # fmt: skip
def test_an_error_names_the_option_and_the_nearest_key(given: str, words: str) -> None:
    assert words in refused(given)


def test_a_key_given_twice_is_refused() -> None:
    assert "--set parameters.lambda: this key is given twice" in refused("parameters.lambda=1", "parameters.lambda=2")


def test_other_keys_keep_their_lines() -> None:
    text = RULES.replace("keep: one", "keep: three")
    assert refused("rules.0=null", text=text).startswith("r.yaml:10 (rules[0].keep): no model is called 'three'")


def test_from_python_the_data_stays_as_it_is() -> None:
    data: dict[str, Any] = {"base_model": "/b", "models": [{"model": "/one"}], "merge_method": "task_arithmetic"}
    recipe = load_recipe(data, changes={"models.one.parameters.weight": 0.5, "parameters.lambda": 0.4})
    assert recipe.results[0].default.parameters == {"weight": [0.5], "normalize": False, "lambda": 0.4}
    assert data["models"] == [{"model": "/one"}]
    with pytest.raises(RecipeError, match="--set parameters=: this is not the path of a key"):
        load_recipe(data, changes={"parameters=": 1})


def test_a_resolved_recipe_is_not_changed() -> None:
    with pytest.raises(RecipeError, match="a resolved recipe cannot be changed"):
        load_recipe(resolved(MINIMAL), changes={"dtype": "float32"})


def test_of_several_documents_the_named_one_changes_or_the_last() -> None:
    text = (
        f"name: first\n{MINIMAL}---\nbase_model: base\nmodels: [{{model: first}}, {{model: two}}]\nmerge_method: ties\n"
    )
    given = ["first.parameters.lambda=0.4", "parameters.lambda=0.7", "first.models.one.parameters.weight=0.1"]
    first, last = (
        document.recipe for document in parse_documents(text, "r.yaml", "/recipes", changes=parse_changes(given))
    )
    assert first.plain["parameters"] == {"lambda": 0.4}
    assert first.plain["models"][0]["parameters"] == {"weight": 0.1}
    assert last.plain["parameters"] == {"lambda": 0.7}
    with pytest.raises(
        RecipeError, match=r"--set first\.parameters\.lamda: task_arithmetic takes no parameter 'lamda'"
    ):
        parse_documents(text, "r.yaml", "/recipes", changes={"first.parameters.lamda": 1})
