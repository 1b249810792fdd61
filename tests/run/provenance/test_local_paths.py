"""Texts without absolute local paths: whatever remains is a name, a URL or relative."""

from __future__ import annotations

import pytest

from svc_dist.run.provenance.local_paths import short_names, without_local_paths


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("base_model: /home/me/models/base\n", "base_model: base\n"),
        ("models: [{model: /a/x/final}, {model: '/a/y/final'}]", "models: [{model: x/final}, {model: 'y/final'}]"),
        ("model: /a/base+/a/lora\n", "model: base+lora\n"),
        ("model: '/home/my models/base'\n", "model: 'base'\n"),
        ("base: /m/a\nbigger: /m/a/b\n", "base: a\nbigger: b\n"),
        ("base: file:///home/me/base\n", "base: base\n"),
        ("# see /home/me/notes.txt\na: 1\n", "# see notes.txt\na: 1\n"),
        ("# yaml: $schema=/opt/x/schema.json\n", "# yaml: $schema=schema.json\n"),
        ("a: ../models/base  # s3://bucket/x/y, https://h/x/y, owner/name, 1/2\n", None),
        ("a: ${MODELS}/base\nb: s3://bucket/models/base\nc: ~/models/base\n", None),
        ("not: [yaml /home/me/x", "not: [yaml x"),
    ],
)  # fmt: skip
def test_absolute_paths_become_names_and_nothing_else_changes(text: str, left: str | None) -> None:
    assert without_local_paths(text) == (text if left is None else left)


@pytest.mark.parametrize(
    ("locations", "names"),
    [
        (["/x/code", "/x/math"], ["code", "math"]),
        (["s3://b/code/final", "s3://b/math/final/"], ["code/final", "math/final"]),
        (["/only"], ["only"]),
    ],
)
def test_names_are_the_ends_that_tell_locations_apart(locations: list[str], names: list[str]) -> None:
    assert short_names(locations) == names
