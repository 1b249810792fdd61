"""Values that vary by tensor mean what they mean in mergekit: gradients over the layers, conditions on the name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import svc_dist
from svc_dist.errors import RecipeError
from svc_dist.methods.registry import METHODS
from svc_dist.plan.model import Plan
from svc_dist.recipe.varying import Varying
from tests.support.checkpoints import recipe_data, write_llamas

LAYER, NORM = "model.layers.{}.{}.weight", "model.norm.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("llamas"), experts=2, layers=5)


def planned(folders: list[Path], method: str, text: str = "", /, **keys: Any) -> Plan:
    """The plan of a recipe whose parameters are given as YAML."""
    return svc_dist.make_plan(recipe_data(folders, method, parameters=yaml.safe_load(text) or {}, **keys))


def parameter(plan: Plan, key: str, name: str) -> Any:
    tensor = next(tensor for tensor in plan.tensors if tensor.name == name)
    parameters = plan.dispositions(tensor)[0].parameters
    assert parameters is not None
    return parameters[key]


def test_a_gradient_is_interpolated_over_the_layers(models: list[Path]) -> None:
    plan = planned(models[:2], "slerp", "t: [0, 1, 0.5]")
    found = [parameter(plan, "t", LAYER.format(n, "mlp.up_proj")) for n in range(5)]
    assert found == pytest.approx([0, 0.5, 1, 0.75, 0.5])
    assert parameter(plan, "t", NORM) == parameter(plan, "t", "model.embed_tokens.weight") == 0  # mergekit: the first


def test_the_first_condition_that_holds_counts(models: list[Path]) -> None:
    text = "t: [{filter: self_attn, value: [0, 1]}, {filter: mlp, value: [1, 0]}, {value: 0.5}]"
    plan = planned(models[:2], "slerp", text)
    for n in range(5):
        assert parameter(plan, "t", LAYER.format(n, "self_attn.q_proj")) == n / 4
        assert parameter(plan, "t", LAYER.format(n, "mlp.up_proj")) == 1 - n / 4
    assert parameter(plan, "t", NORM) == 0.5


@pytest.mark.parametrize("last", ["{filter: '*', value: 0.2}", "{value: 0.2}", "{filter: '', value: 0.2}"])
def test_every_spelling_of_all_other_tensors(models: list[Path], last: str) -> None:
    plan = planned(models, "ties", f"weight: [{{filter: mlp, value: 0.7}}, {last}]")
    assert parameter(plan, "weight", LAYER.format(0, "mlp.up_proj")) == [0.7, 0.7]
    assert parameter(plan, "weight", NORM) == [0.2, 0.2]


def test_an_experts_own_value_comes_first_where_it_has_one_for_the_tensor(models: list[Path]) -> None:
    own = {"weight": [{"filter": "mlp", "value": 0.9}], "density": {"filter": "mlp", "value": 0.4}}
    entries = [{"model": str(models[1]), "parameters": own}, {"model": str(models[2])}]
    plan = planned(models, "ties", "{weight: 0.5}", models=entries)
    assert parameter(plan, "weight", LAYER.format(1, "mlp.up_proj")) == [0.9, 0.5]
    assert parameter(plan, "density", LAYER.format(1, "mlp.up_proj")) == [0.4, 1.0]
    assert parameter(plan, "weight", NORM) == [0.5, 0.5]
    assert parameter(plan, "density", NORM) == [1.0, 1.0]  # the method's default


def test_a_rules_value_comes_before_all(models: list[Path]) -> None:
    rules = [{"match": "*.mlp.*", "parameters": {"weight": [0.0, 1.0]}}]
    plan = planned(models, "task_arithmetic", "weight: [{filter: mlp, value: 3}, {value: 1}]", rules=rules)
    assert parameter(plan, "weight", LAYER.format(1, "mlp.up_proj")) == [0.25, 0.25]


def test_what_is_no_number_is_chosen_not_interpolated() -> None:
    varying = Varying(METHODS["ties"].parameter("normalize"), ([True, False, True],))  # type: ignore[arg-type]
    assert [varying.at("x", depth) for depth in (0, 0.49, 0.5, 0.99, 1)] == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("1.0", [True, True, True]),
        ("0", [False, False, False]),
        ("'yes'", [True, True, True]),
        ("[1.0, 0]", [True, False, True]),
        ("{filter: norm, value: 0.0}", [True, True, False]),
        ("[{value: ['false', 1]}]", [False, True, False]),
    ],
)
def test_booleans_may_be_numbers_or_text(models: list[Path], written: str, values: list[bool]) -> None:
    plan = planned(models, "ties", f"normalize: {written}")
    names = [LAYER.format(0, "mlp.up_proj"), LAYER.format(4, "mlp.up_proj"), NORM]
    assert [parameter(plan, "normalize", name) for name in names] == values


@pytest.mark.parametrize("written", ["'0.5'", "5e-1", "'5e-1'", "['0.5', 0.5]", "{filter: '*', value: ' .5 '}"])
def test_numbers_may_be_text(models: list[Path], written: str) -> None:
    plan = planned(models, "ties", f"weight: {written}")
    assert parameter(plan, "weight", NORM) == [0.5, 0.5]


def test_tensors_of_equal_parameters_share_a_disposition(models: list[Path]) -> None:
    plan = planned(models, "ties", "density: [{filter: mlp, value: 0.5}, {value: 0.9}]")
    assert len(plan.results[0].dispositions) == 2
    plan = planned(models, "ties", "density: [0.5, 0.9]")
    assert sorted({entry.parameters["density"][0] for entry in plan.results[0].dispositions if entry.parameters}) == (
        pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    )


def test_a_weight_without_a_value_for_a_tensor_is_an_error_that_names_it(models: list[Path]) -> None:
    with pytest.raises(RecipeError, match=r"parameters\): tensor 'lm_head\.weight': none of the conditions for weight"):
        planned(models, "ties", "weight: {filter: model, value: 1}")
    with pytest.raises(RecipeError, match="none of the conditions for t holds"):
        planned(models[:2], "slerp", "t: {filter: model, value: 1}")


def test_values_that_do_not_go_together_for_one_tensor_are_an_error_that_names_it(models: list[Path]) -> None:
    with pytest.raises(RecipeError, match=r"tensor 'model\.layers\.4\.[a-z_.]*': della: density 0.9 with epsilon 0.15"):
        planned(models, "della", "density: [0.5, 0.9]")
    entries = [{"model": str(models[n]), "parameters": {"weight": [1.0, w]}} for n, w in ((1, 1.0), (2, -1.0))]
    with pytest.raises(RecipeError, match="the weights add up to zero"):
        planned(models, "linear", models=entries)


def test_a_filter_that_is_part_of_no_name_is_told(models: list[Path]) -> None:
    plan = planned(models, "ties", "density: [{filter: mpl, value: 0.5}, {value: 0.9}]")
    assert plan.warnings == (
        "recipe (parameters.density): no tensor's name contains the filter 'mpl' [filter-matches-nothing]",
    )
