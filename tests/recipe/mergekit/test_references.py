"""mergekit's ways to name a model."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.recipe.mergekit.references import model_text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("owner/name", "owner/name"),
        ({"model": "owner/name"}, "owner/name"),
        ({"model": {"path": "owner/name"}}, "owner/name"),
        ({"model": {"path": "owner/name", "revision": None}, "lora": None}, "owner/name"),
        ({"model": {"path": "owner/name", "revision": "v2"}}, "owner/name@v2"),
        ({"model": "owner/name", "lora": {"path": "a b"}, "override_architecture": None}, "owner/name+a b"),
        ({"model": "a", "lora": {"path": "b", "revision": "v1"}}, "a+b@v1"),
        ({"path": "owner/name"}, {"path": "owner/name"}),
        ({"model": 3}, {"model": 3}),
        ({"model": "a", "adapter": "b"}, {"model": "a", "adapter": "b"}),
        (None, None),
    ],
)  # fmt: skip
def test_a_model_is_text(written: Any, text: Any) -> None:
    assert model_text(written) == text
