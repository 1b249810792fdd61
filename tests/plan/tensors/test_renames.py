"""Names that moved: prefixes replaced before anything is decided, each of which must fit."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import RecipeError
from svc_dist.plan.tensors.renames import renamed
from svc_dist.recipe.load import recipe_from


def model(location: str, *names: str) -> Checkpoint:
    return Checkpoint(location, (), {name: TensorSpec(name, "BF16", (2,), "f", 0, 4) for name in names}, None)


BASE = model("/base", "model.a", "model.b", "head")
MOVED = model("/moved", "language_model.model.a", "language_model.model.b", "language_model.head", "visual.c")
PLAIN = model("/plain", "model.a", "model.b", "head")


def names(rename: Any = (), **own: Any) -> list[list[str]]:
    """The names of the three models under the recipe's prefixes and those of single models."""
    entries = [{"model": m.location, "rename": own.get(m.location[1:], [])} for m in (MOVED, PLAIN)]
    data = {"base_model": "/base", "models": entries, "merge_method": "linear", "rename": list(rename)}
    models, _ = renamed(recipe_from(data), [BASE, MOVED, PLAIN])
    for found in models:
        assert all(spec.name == name for name, spec in found.tensors.items())
    return [list(found.tensors) for found in models]


def prefix(old: str, new: str) -> dict[str, str]:
    return {"from": old, "to": new}


def test_one_models_prefix_is_replaced_in_it_alone() -> None:
    found = names(moved=prefix("language_model.", ""))
    assert found == [list(BASE.tensors), ["model.a", "model.b", "head", "visual.c"], list(PLAIN.tensors)]


def test_the_recipes_prefix_is_replaced_in_every_model_that_has_it() -> None:
    found = names([prefix("model.", "language_model.model."), prefix("head", "language_model.head")])
    assert found[0] == found[2] == ["language_model.model.a", "language_model.model.b", "language_model.head"]
    assert found[1] == list(MOVED.tensors)


def test_a_pattern_is_replaced_in_the_middle_and_after_a_prefix() -> None:
    own = [prefix("language_model.", ""), prefix("*model.*", "*stack.*")]
    assert names(moved=own)[1] == ["stack.a", "stack.b", "head", "visual.c"]


def test_a_pattern_and_its_replacement_have_the_same_gaps() -> None:
    with pytest.raises(RecipeError, match=r"must have equally many \*"):
        names([prefix("*.a", "b")])


def test_of_several_prefixes_the_first_that_fits_counts_and_a_models_own_come_first() -> None:
    own = [prefix("language_model.model.b", "b"), prefix("language_model.", "")]
    assert names([prefix("visual.", "tower.")], moved=own)[1] == ["model.a", "b", "head", "tower.c"]


@pytest.mark.parametrize(
    ("rename", "own", "words"),
    [
        ([prefix("languag.", "")], {}, r"\(rename\[0\]\): no tensor's name starts with"),
        (
            [],
            {"plain": prefix("language_model.", "")},
            r"\(models\[1\]\.rename\[0\]\): no tensor's name starts with",
        ),
        ([], {"moved": [prefix("language", "x"), prefix("language_model.model.", "")]}, r"models\[0\]\.rename\[1\]"),
        ([prefix("*.nothing", "*.x")], {}, r"\(rename\[0\]\): no tensor's name matches this pattern"),
        ([], {"moved": prefix("language_model.model.a", "visual.c")}, "/moved: rename makes two tensors one"),
    ],
)
def test_a_prefix_that_fits_nothing_or_too_much_is_an_error(rename: Any, own: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        names(rename, **own)
