"""mergekit's recipes run as they are; what is not done, or done otherwise, is said by name."""

from __future__ import annotations

import pytest
import yaml

from svc_dist.errors import RecipeError
from svc_dist.recipe.load import parse_recipe, recipe_from

MINIMAL = "base_model: b\nmodels: [{model: one}, {model: two}]\nmerge_method: METHOD\n"


@pytest.mark.parametrize(
    ("method", "line", "words"),
    [
        ("ties", "slices: [{sources: []}]", "r.yaml:4 (slices): svc_dist does not assemble layers"),
        ("ties", "modules: {text: {}}", "r.yaml:4 (modules): svc_dist does not support this key"),
        (
            "ties",
            "tokenizer: {source: base}\ntokenizer_source: base",
            "tokenizer_source are the same key",
        ),
        ("ties", "tokenizer_source: three", "r.yaml:4 (tokenizer_source): no model is called 'three'"),
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
