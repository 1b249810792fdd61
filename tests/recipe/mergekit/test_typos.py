"""Which known name an unknown one was meant to be."""

from __future__ import annotations

import pytest

from svc_dist.recipe.mergekit.typos import meant

KNOWN = ("base_model", "dtype", "lambda", "normalize", "weight", "density", "rename", "t", "tokenizer_source", "gamma")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("dype", "dtype"),
        ("dtpye", "dtype"),
        ("lamda", "lambda"),
        ("wieght", "weight"),
        ("Weight", "weight"),
        ("weights", "weight"),
        ("normalise", "normalize"),
        ("normlaise", "normalize"),
        ("densty", "density"),
        ("base-model", "base_model"),
        ("baseModel", "base_model"),
        ("tokeniser_sources", "tokenizer_source"),
        ("T", "t"),
        ("name", None),
        ("output_dir", None),
        ("description", None),
        ("type", "dtype"),
        ("s", None),
        ("weight", None),
        ("", None),
    ],
)
def test_a_typo_is_recognised_and_another_word_is_not(name: str, known: str | None) -> None:
    assert meant(name, KNOWN) == known


def test_the_closest_of_several_is_meant() -> None:
    assert meant("modle", ["models", "model"]) == "model"
