"""Every code of an error or a warning has a text."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import RecipeError
from svc_dist.recipe.writing.explanations import explain, explanations, page

ROOT = Path(svc_dist.__file__).parent
SOURCES = {file.relative_to(ROOT).as_posix(): file.read_text() for file in sorted(ROOT.rglob("*.py"))}


@functools.cache
def nodes(source: str) -> list[ast.AST]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call | ast.keyword)]


def calls(source: str, *names: str) -> Iterator[ast.Call]:
    for node in nodes(source):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def test_every_code_that_the_source_names_is_explained() -> None:
    named = {
        call.args[0].value
        for source in SOURCES.values()
        for call in calls(source, "warned")
        if isinstance(call.args[0], ast.Constant)
    }
    for source in SOURCES.values():
        for node in nodes(source):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                named.add(node.value.value)
    assert named - {None} <= set(explanations())


def test_refusals_of_recipes_and_plans_name_a_code() -> None:
    nameless = [
        f"{file}:{call.lineno}"
        for file, source in SOURCES.items()
        if file.startswith(("recipe/", "plan/"))
        for call in calls(source, "RecipeError", "PlanError")
        if not any(keyword.arg == "code" for keyword in call.keywords)
    ]
    assert nameless == []


def test_every_explained_code_is_one_that_something_names() -> None:
    everything = "\n".join(SOURCES.values())
    assert [code for code in explanations() if f'"{code}"' not in everything] == []


def test_kinds_of_errors_are_explained() -> None:
    kinds = [kind for kind in vars(svc_dist.errors).values() if isinstance(kind, type) and hasattr(kind, "code")]
    assert {kind.code for kind in kinds} - {None} <= set(explanations())


def test_an_explanation_says_what_to_do_and_what_mergekit_does() -> None:
    text = explain("unknown-key").text()
    assert text.startswith("unknown-key (error)\n")
    for label in ("Why svc_dist stops: ", "What to do: ", "Example: ", "mergekit: "):
        assert label in text
    assert "Why svc_dist warns: " in explain("no-effect").text()
    assert "### unknown-key" in page()


def test_an_unknown_code_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'vocab-differs'"):
        explain("vocab-differ")
