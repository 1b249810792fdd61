"""What experts are called in messages."""

from __future__ import annotations

import pytest

from svc_dist.methods.auto.features import Features


@pytest.mark.parametrize(
    ("experts", "adapters", "kind"),
    [
        (1, 0.0, "one full fine-tune"),
        (4, 0.0, "4 full fine-tunes"),
        (1, 1.0, "one LoRA adapter"),
        (8, 1.0, "8 LoRA adapters"),
        (3, 0.333, "3 experts, of which 1 is a LoRA adapter"),
        (4, 0.5, "4 experts, of which 2 are LoRA adapters"),
    ],
)
def test_kinds(experts: int, adapters: float, kind: str) -> None:
    assert Features(experts, adapters, 1.0, 0.0, 1.0, 0.5, (0.1,) * experts, 1, 1).kind == kind
