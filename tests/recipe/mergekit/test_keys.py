"""mergekit's recipes run as they are; what is not done, or done otherwise, is said by name."""

from __future__ import annotations

import pytest

from svc_dist.errors import RecipeError
from svc_dist.recipe.load import parse_recipe

MINIMAL = "base_model: b\nmodels: [{model: one}, {model: two}]\nmerge_method: METHOD\n"


@pytest.mark.parametrize(
    ("method", "line", "words"),
    [
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


def test_parameters_with_nothing_after_them_say_nothing() -> None:
    assert parse_recipe(MINIMAL.replace("METHOD", "ties") + "parameters:\n").plain["parameters"] == {}
