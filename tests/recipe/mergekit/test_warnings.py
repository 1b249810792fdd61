"""What has no effect, or another one than in mergekit, appears as a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import svc_dist
from tests.support.checkpoints import recipe_data, write_llamas


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("llamas"), experts=2)


def warnings(folders: list[Path], method: str = "ties", /, **keys: Any) -> tuple[str, ...]:
    return svc_dist.make_plan(recipe_data(folders, method, **keys)).warnings


@pytest.mark.parametrize(
    ("method", "keys", "words"),
    [
        ("linear", {"parameters": {"weight": 0.5}}, "(base_model): linear merges the base too, with the weight of"),
        ("ties", {"chat_template": "llama3"}, "(chat_template): 'llama3' is the format that models were trained with"),
        ("della", {"parameters": {"rescale": True, "density": 0.5}}, "(parameters.rescale): divides kept entries"),
        ("ties", {"dtype": "float16", "out_dtype": "bfloat16"}, "(dtype): has no effect, because out_dtype is given"),
    ],
)
def test_what_has_no_effect_or_another_is_told(
    models: list[Path], method: str, keys: dict[str, Any], words: str
) -> None:
    assert words in warnings(models, method, **keys)[0]


def test_parameters_of_a_listed_base_are_told_to_have_no_effect(models: list[Path]) -> None:
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    assert "(models[0].parameters): has no effect: this model is" in warnings(models, "ties", models=entries)[0]
    assert warnings(models, "linear", models=entries) == ()


@pytest.mark.parametrize(
    ("keys", "written"),
    [
        ({"dtype": "float16"}, "F16"),
        ({"dtype": "float32", "out_dtype": "bfloat16"}, "BF16"),
        ({"out_dtype": "float16"}, "F16"),
        ({"dtype": "torch.float32"}, "F32"),
        ({}, "BF16"),
    ],
)
def test_what_is_written_has_the_out_dtype_else_the_dtype(models: list[Path], keys: Any, written: str) -> None:
    plan = svc_dist.make_plan(recipe_data(models, **keys))
    assert {tensor.dtype for tensor in plan.tensors} == {written}
    assert plan.warnings == ()


def test_a_base_that_linear_does_not_list_takes_part_only_with_the_weight_for_all(models: list[Path]) -> None:
    def base_weight(**keys: Any) -> float:
        plan = svc_dist.make_plan(recipe_data(models, "linear", **keys))
        parameters = plan.results[0].dispositions[0].parameters
        assert parameters is not None
        return float(parameters["base_weight"])

    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models[1:]]
    assert base_weight(parameters={"weight": 0.25}) == 0.25
    assert base_weight(parameters={"weight": [0.25]}) == 0.25
    assert base_weight(models=entries) == 0.0
    assert "(base_model): linear does not merge the base" in warnings(models, "linear", models=entries)[0]
    assert warnings(models, "linear") == ()


@pytest.mark.parametrize(
    ("method", "weights", "said"),
    [
        ("ties", [None, 0.5, None], "(models[2]): has no weight, so svc_dist takes the default 1; mergekit stops"),
        ("ties", [None, 0.5, 0.5], None),
        ("ties", [None, None, None], None),
        ("linear", [None, 0.5, None], "(models[0]) and 1 more: has no weight"),
        ("sce", [None, None, None], None),
    ],
)
def test_a_model_without_weight_beside_others_with_one_is_named(
    models: list[Path], method: str, weights: list[float | None], said: str | None
) -> None:
    entries = [
        {"model": str(model), **({} if weight is None else {"parameters": {"weight": weight}})}
        for model, weight in zip(models, weights, strict=True)
    ]
    found = warnings(models, method, models=entries)
    assert said in found[0] if said else found == ()
