"""mergekit's recipes run as they are; what is not done, or done otherwise, is said by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import svc_dist
from svc_dist.errors import RecipeError
from svc_dist.recipe.load import parse_recipe, recipe_from
from tests.support.checkpoints import recipe_data, write_llamas

MINIMAL = "base_model: b\nmodels: [{model: one}, {model: two}]\nmerge_method: METHOD\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("llamas"), experts=2)


@pytest.mark.parametrize(
    ("method", "line", "words"),
    [
        ("ties", "slices: [{sources: []}]", "r.yaml:4 (slices): svc_dist does not assemble layers"),
        ("ties", "modules: {text: {}}", "r.yaml:4 (modules): svc_dist does not support this key"),
        (
            "ties",
            "tokenizer_source: union",
            "r.yaml:4 (tokenizer_source): svc_dist does not build a union of vocabularies",
        ),
        ("ties", "tokenizer: {source: union}", "r.yaml:4 (tokenizer.source): svc_dist does not build a union"),
        ("ties", "tokenizer: {}", "r.yaml:4 (tokenizer.source): svc_dist does not build a union"),  # mergekit's default
        (
            "ties",
            "tokenizer: {source: base, tokens: {x: {source: one}}}",
            "r.yaml:4 (tokenizer.tokens): svc_dist does not rebuild",
        ),
        (
            "ties",
            "tokenizer: {source: base, pad_to_multiple_of: 64}",
            "(tokenizer.pad_to_multiple_of): svc_dist does not",
        ),
        (
            "ties",
            "tokenizer: {source: base}\ntokenizer_source: base",
            "tokenizer_source are the same key",
        ),
        ("ties", "tokenizer_source: three", "r.yaml:4 (tokenizer_source): no model is called 'three'"),
        ("task_arithmetic", "parameters: {density: 0.5}", "mergekit ignores it; remove it"),
        ("ties", "out_dtype: bf16", "r.yaml:4 (out_dtype): 'bf16' is not one of bfloat16"),
    ],
)
def test_what_is_not_done_is_refused_by_name_with_what_to_do_instead(method: str, line: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(MINIMAL.replace("METHOD", method) + line, "r.yaml")
    assert words in str(caught.value)


def test_one_slice_of_whole_models_is_answered_with_the_models_to_paste() -> None:
    text = (
        "merge_method: slerp\nbase_model: one\nparameters: {t: 0.3}\nslices:\n  - sources:\n"
        "      - {model: one, layer_range: [0, 32]}\n      - {model: two, layer_range: [0, 32]}\n"
    )
    with pytest.raises(RecipeError, match="if the models have 32 layers, replace `slices` with") as caught:
        parse_recipe(text)
    assert caught.value.hint is not None
    pasted = yaml.safe_load(caught.value.hint.partition("\n")[2])
    assert pasted == {"models": [{"model": "one"}, {"model": "two"}]}
    recipe_from({key: value for key, value in yaml.safe_load(text).items() if key != "slices"} | pasted)


def test_parameters_with_nothing_after_them_say_nothing() -> None:
    assert parse_recipe(MINIMAL.replace("METHOD", "ties") + "parameters:\n").plain["parameters"] == {}


def warnings(folders: list[Path], method: str = "ties", /, **keys: Any) -> tuple[str, ...]:
    return svc_dist.make_plan(recipe_data(folders, method, **keys)).warnings


@pytest.mark.parametrize(
    ("method", "keys", "words"),
    [
        ("ties", {"parameters": {"int8_mask": True}}, "(parameters.int8_mask): has no effect"),
        ("linear", {"parameters": {"int8_mask": True, "weight": 1}}, "(parameters.int8_mask): has no effect"),
        ("linear", {"parameters": {"weight": 0.5}}, "(base_model): linear does not merge the base"),
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
