"""The keys of a recipe: shorthands become the whole form, and a value that cannot be meant is refused with its key."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from svc_dist.recipe import schema
from svc_dist.recipe.schema import Recipe

MINIMAL: dict[str, Any] = {"base_model": "base", "models": [{"model": "one"}], "merge_method": "linear"}


def recipe(**keys: Any) -> Recipe:
    return Recipe.model_validate(MINIMAL | keys)


def test_shorthands_mean_the_whole_form() -> None:
    assert recipe(calibrate="svc").calibrate == {"method": "svc"}
    assert recipe(fallback="ties").fallback == {"method": "ties"}
    assert recipe(parameters=None).parameters == {}
    rule = recipe(rules=[{"match": "a*", "calibrate": "none"}]).rules[0]
    assert (rule.match, rule.calibrate) == (["a*"], {"method": "none"})
    (renamed,) = recipe(rename={"from": "x.", "to": "y."}).rename
    assert (renamed.old, renamed.new) == ("x.", "y.")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mehtod": "svc"}, "mehtod"),
        ({"models": []}, "models"),
        ({"models": [{"model": ""}]}, "model"),
        ({"models": [{"model": "a", "name": "base"}]}, "is reserved"),
        ({"dtype": "int8"}, "'int8' is not one of"),
        ({"max_shard_size": "5 apples"}, "is not a size in bytes"),
        ({"vocab": "all"}, "vocab"),
        ({"rules": [{"match": []}]}, "match"),
        ({"tokenizer_source": "base", "tokenizer": {"source": "base"}}, "are the same key"),
        ({"outputs": [{"path": "../up"}]}, "is not a folder inside OUTPUT"),
        ({"outputs": [{"path": "s3://bucket"}]}, "is not a folder inside OUTPUT"),
        ({"outputs": [{"path": ".hidden"}]}, "is not a folder inside OUTPUT"),
        ({"outputs": [{"path": "a"}, {"path": "a/b"}]}, "must be separate folders"),
        ({"outputs": [{"path": "a"}, {"path": "a"}]}, "must be separate folders"),
        ({"storage": {"s3://": {"secret_key": "x"}}}, "secret_key"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        recipe(**keys)


def test_folders_whose_names_begin_alike_are_separate() -> None:
    assert [entry.path for entry in recipe(outputs=[{"path": "a"}, {"path": "ab"}, {"path": "b/a"}]).outputs] == [
        "a", "ab", "b/a"
    ]  # fmt: skip


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipe().merge_method = "ties"  # type: ignore[misc]


def test_every_key_has_a_description_for_the_reference() -> None:
    kinds = [kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    missing = [
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, field in kind.model_fields.items()
        if not field.description
    ]
    assert Recipe in kinds
    assert missing == []
