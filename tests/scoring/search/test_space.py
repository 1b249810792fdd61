"""The space of a search: dimensions of keys, the outputs that values make, and keys that cannot be searched."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.errors import RecipeError
from svc_dist.recipe.load import parse_recipe
from svc_dist.scoring.search.searched import parse_over
from svc_dist.scoring.search.space import Dimension, Space, space_of
from tests.support.recipes import MINIMAL

PLAIN = MINIMAL.replace("    parameters: {weight: 0.3}\n", "")


def space(text: str, *over: str) -> Space:
    recipe = parse_recipe(text, "r.yaml", "/recipes")
    given = {key: (entry, recipe.origin.at("search", key)) for key, entry in recipe.search.items()}
    given |= {key: (entry, f"--over {key}") for key, entry in map(parse_over, over)}
    return space_of(recipe, given)


def entry(found: Space, **values: Any) -> dict[str, Any]:
    return found.entry(values, "p")


def test_parameters_and_calibrations_go_where_a_recipe_has_them() -> None:
    found = space(PLAIN + "calibrate: svc\n", "lambda=0.2:1.0", "alpha=0.25,0.5")
    assert [one.name for one in found.dimensions] == ["lambda", "alpha"]
    assert entry(found, **{"lambda": 0.3, "alpha": 0.5}) == {
        "path": "p",
        "parameters": {"lambda": 0.3},
        "calibrate": {"alpha": 0.5},
    }
    assert found.entry({}, "p") == {"path": "p"}


def test_values_over_the_depth_and_by_parts_of_names() -> None:
    found = space(PLAIN, "lambda={range: [0.2, 1.0], layers: 3}")
    names = [one.name for one in found.dimensions]
    assert names == ["lambda[0]", "lambda[1]", "lambda[2]"]
    assert found.entry(dict(zip(names, (0.2, 0.4, 0.6), strict=True)), "p")["parameters"] == {"lambda": [0.2, 0.4, 0.6]}
    found = space(PLAIN, "lambda={range: [0.2, 1.0], filters: [mlp]}")
    made = found.entry({"lambda[mlp]": 0.2, "lambda[others]": 0.9}, "p")
    assert made["parameters"] == {"lambda": [{"filter": "mlp", "value": 0.2}, {"value": 0.9}]}


def test_weights() -> None:
    assert entry(space(PLAIN, "weight=0.5:1"), weight=0.7)["parameters"] == {"weight": 0.7}
    one = space(MINIMAL, "weight.two=0.5:1")
    assert one.entry({"weight.two": 0.7}, "p")["weights"] == [0.3, 0.7]
    same = MINIMAL.replace("  - model: two\n", "  - model: two\n    parameters: {weight: 0.3}\n")
    assert entry(space(same, "weight=0.5:1"), weight=0.7)["weights"] == [0.7, 0.7]


@pytest.mark.parametrize(
    ("text", "over", "message"),
    [
        (PLAIN, "lamda=0:1", "--over lamda: task_arithmetic has no value 'lamda' to search\n  did you mean 'lambda'?"),
        (PLAIN, "alpha=0.1:1", "the recipe has no calibration"),
        (MINIMAL, "weight=0:1", "the models have weights of their own"),
        (MINIMAL, "weight.three=0:1", "no model is called 'three'"),
        (PLAIN, "calibrate=0.5:1", "a calibration is one of a list"),
        (PLAIN, "calibrate=none,svd", "--over calibrate: there is no calibration 'svd'\n  did you mean 'svc'?"),
        (PLAIN + "calibrate: svc\n", "alpha=-1:1", "--over alpha: alpha is -1"),
        (PLAIN + "calibrate: svc\n", "side=0:1", "side is 0"),
        (PLAIN + "calibrate: svc\n", "alpha={range: [0.5, 1], layers: 2}", "does not vary by tensor"),
        (PLAIN + "search: {lambda: [0, 1]}\n", "parameters.lambda=0:1", "sets the same value"),
        (PLAIN, "lambda", "this is not KEY=VALUES"),
        (PLAIN, "lambda=1:0", "--over lambda: a range is"),
        (PLAIN.replace("task_arithmetic", "ties\nparameters: {density: 0.5}"), "density=0:2", "density is 2"),
    ],
)
def test_what_is_refused(text: str, over: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        space(text, over)
    assert message in str(caught.value)
    assert caught.value.code == (
        "value-not-allowed"
        if " is " in message and "must" in str(caught.value) and "but must be" in str(caught.value)
        else "search-refused"
    )


def test_a_value_of_a_model_s_own_takes_precedence_and_is_named() -> None:
    text = PLAIN.replace("task_arithmetic", "ties").replace("two\n", "two\n    parameters: {density: 0.5}\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:5 \(models\[1\]\.parameters\.density\) takes precedence"):
        space(text, "density=0.1:0.9")


def test_a_recipe_s_line_is_named() -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml:7 \(search\.lamda\)"):
        space(PLAIN + "search:\n  lamda: [0, 1]\n")


def test_nothing_to_search() -> None:
    with pytest.raises(RecipeError, match="nothing is searched"):
        space(PLAIN)


def test_shares_of_the_way_are_values_with_few_digits() -> None:
    assert Dimension("x", 0.2, 1.0).at(1 / 3) == 0.4667
    assert Dimension("x", 0.01, 1.0, log=True).at(0.5) == 0.1
    assert Dimension("x", 1, 4, whole=True).at(0.5) in (2, 3)
    assert [Dimension("x", values=("a", "b")).at(share) for share in (0, 0.49, 0.5, 1)] == ["a", "a", "b", "b"]
    assert Dimension("x", 0.0, 1.0).spaced(3) == (0.0, 0.5, 1.0)
