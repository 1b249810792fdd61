"""What SVC costs."""

from __future__ import annotations

from svc_dist.methods.calibration.costs import svc_memory, svc_work


def test_one_decomposition_of_the_shorter_side_whatever_the_number_of_experts() -> None:
    assert svc_work(300, 500, 2, "mixed").eigen == svc_work(500, 300, 8, "mixed").eigen == ((300, 1.0),)


def test_memory_does_not_grow_with_the_experts_but_with_precision_and_size() -> None:
    assert svc_memory(512, 1024, 2, "mixed") == svc_memory(512, 1024, 16, "mixed")
    assert svc_memory(512, 1024, 2, "float64") > svc_memory(512, 1024, 2, "mixed")
    assert svc_memory(1024, 1024, 2, "mixed") > svc_memory(512, 1024, 2, "mixed")
