"""YAML read strictly, with the line of every key."""

from __future__ import annotations

import contextlib
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from svc_dist.errors import RecipeError
from svc_dist.recipe.yaml_lines import read_yaml


def test_every_key_and_item_has_its_line() -> None:
    value, lines = read_yaml("a: 1\n\nb:\n  - x: 2\n  - y: {z: 3}\n", "r")
    assert value == {"a": 1, "b": [{"x": 2}, {"y": {"z": 3}}]}
    assert (lines["a",], lines["b",], lines["b", 0], lines["b", 0, "x"], lines["b", 1, "y", "z"]) == (1, 3, 4, 4, 5)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E5", 1e5), ("+3", 3), ("-3", -3), (".5", 0.5), ("3.", 3.0), ("012", 12), ("1.5e+3", 1500.0),
     (".inf", math.inf), ("true", True), ("null", None), ("~", None), ("'1'", "1")],
)  # fmt: skip
def test_numbers_are_numbers(text: str, value: object) -> None:
    found = read_yaml(f"a: {text}", "r")[0]["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["1:30", "2024-01-01", "2024-13-45", "1_000", "0x", "1e", "v1.0", "a:b"])
def test_what_only_looks_like_a_number_is_text(text: str) -> None:
    assert read_yaml(f"a: {text}", "r")[0]["a"] == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "r:3: duplicate key 'a'"),
        ("a: 1\nx: {y: 1, y: 2}", "r:2: duplicate key 'y'"),
        ("a: [1", "r:1: not valid YAML"),
        ("a: 1\n\tb: 2", "r:2: not valid YAML"),
        ("a: b: c", "r:1: not valid YAML"),
        ("a: 1\n---\nb: 2", "r:3: a second document"),
        ("a: \x00", "r: not valid YAML"),
        ("3: 4", "r:1: the key 3 is not text"),
        ("? [a]\n: 1", "r:1: .*is not"),
        ("a: !!python/object/apply:os.system [id]", "r:1: the tag"),
        ("a: !thing 3", "r:1: not valid YAML"),
        ("a: !!omap []", "r:1: the tag"),
        ("a: !!int abc", "r:1: 'abc' is not"),
        ("a: &x [*x]", "r:1: .*nested too deeply"),
        ("[" * 5000, "nested too deeply"),
        (
            "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)),
            "too large",
        ),
    ],
)
def test_what_is_not_a_recipe_s_yaml_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_yaml(text, "r")


def test_an_alias_stands_for_its_anchor() -> None:
    assert read_yaml("a: &w {weight: 0.3}\nb: *w", "r")[0] == {"a": {"weight": 0.3}, "b": {"weight": 0.3}}


def test_a_merge_key_takes_the_keys_that_are_not_written() -> None:
    text = "a: &a {weight: 0.5, density: 0.5}\nb:\n  <<: *a\n  weight: 0.2\nc: {<<: *a}\n"
    value, lines = read_yaml(text, "r")
    assert value["b"] == {"weight": 0.2, "density": 0.5}
    assert value["c"] == value["a"]
    assert (lines["b", "weight"], lines["b", "density"], lines["c", "density"]) == (4, 1, 1)


def test_of_several_merged_mappings_the_first_with_a_key_counts() -> None:
    text = "a: &a {x: 1, deep: {y: 1}}\nb: &b {x: 2, z: 3, deep: {w: 2}}\n"
    text += "c: {z: 4, <<: [*a, *b]}\nd: {<<: {<<: *b, x: 5}}\n"
    value = read_yaml(text, "r")[0]
    assert value == yaml.safe_load(text)
    assert value["c"] == {"x": 1, "deep": {"y": 1}, "z": 4}
    assert value["d"] == {"x": 5, "z": 3, "deep": {"w": 2}}
    assert read_yaml("'<<': 1", "r")[0] == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:\n  <<: 3", "r:2: << takes a mapping"),
        ("b: &b {x: 1}\na:\n  <<: [*b, 3]", "r:3: << takes a mapping"),
        ("b: &b {x: 1}\na:\n  <<: *b\n  <<: *b", "r:4: duplicate key '<<'"),
        ("b: &b {x: 1}\na:\n  <<: *b\n  y: 1\n  y: 2", "r:5: duplicate key 'y'"),
        ("a: &a\n  <<: *a", "nested too deeply"),
        ("a0: &a0 {x: 1}\n" + "\n".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 10}]}}" for n in range(1, 12)),
         "too large"),
    ],
)  # fmt: skip
def test_wrong_merge_keys_are_refused_with_their_line(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_yaml(text, "r")


@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("ab:-[]{}&*!#|>\"' \n0.e", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(RecipeError):
        read_yaml(text, "r")
