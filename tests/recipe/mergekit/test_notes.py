"""Warnings that say the same are one."""

from __future__ import annotations

from svc_dist.recipe.mergekit.notes import Notes
from svc_dist.recipe.origin import Origin


def test_keys_of_one_text_are_one_warning() -> None:
    notes = Notes()
    notes.add(("models", 0, "a"), "{names}: drop {them}", code="x-y")
    notes.add(("b",), "another", code="z")
    notes.add(("models", 0, "c"), "{names}: drop {them}", code="x-y")
    notes.add(("models", 2, "a"), "{names}: drop {them}", code="x-y")
    notes.add(("models", 3, "d"), "{names}: drop {them}", code="x-y")
    origin = Origin("r.yaml", {("models", 0): 3, ("b",): 9})
    assert list(notes.warnings(origin)) == [
        "r.yaml:3 (models[0].a) and 2 more: 'a', 'c' and 'd': drop them [x-y]",
        "r.yaml:9 (b): another [z]",
    ]


def test_one_key_is_one() -> None:
    notes = Notes()
    notes.add(("a",), "{names}: drop {them}", code="x")
    assert list(notes.warnings(Origin())) == ["recipe (a): 'a': drop it [x]"]
