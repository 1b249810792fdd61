"""What the candidates cost. Peaks are held by tests/methods/spectral/test_memory.py."""

from __future__ import annotations

from svc_dist.methods.candidates.costs import ace_memory, ace_work, resmerge_memory, resmerge_work


def test_memory_does_not_grow_with_the_experts() -> None:
    assert ace_memory(512, 640, 2, "mixed") == ace_memory(512, 640, 16, "mixed")
    assert resmerge_memory(512, 640, 2, "mixed") == resmerge_memory(512, 640, 16, "mixed")


def test_ace_decomposes_nothing_and_resmerge_is_cheaper() -> None:
    assert not ace_work(512, 640, 4, "mixed").eigen
    assert resmerge_work(2048, 2048, 4, "mixed").flops < ace_work(2048, 2048, 4, "mixed").flops
