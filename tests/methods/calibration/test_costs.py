"""What SVC costs, and where ``fast`` rounds: ``svc_dist.methods.calibration.policy`` decides for both."""

from __future__ import annotations

import pytest

from svc_dist.methods.calibration.costs import svc_memory, svc_work
from svc_dist.methods.calibration.policy import ROUNDED_FROM, rounds_coefficients


@pytest.mark.parametrize("small", [ROUNDED_FROM - 1, ROUNDED_FROM])
def test_fast_makes_products_in_bfloat16_only_where_it_rounds(small: int) -> None:
    work = svc_work(small, 4096, 4, "fast")
    assert (work.bfloat16 > 0) is rounds_coefficients(small) is (small >= ROUNDED_FROM)
    assert svc_work(small, 4096, 4, "mixed").bfloat16 == 0


def test_one_decomposition_of_the_shorter_side_whatever_the_number_of_experts() -> None:
    assert svc_work(300, 500, 2, "mixed").eigen == svc_work(500, 300, 8, "mixed").eigen == ((300, 1.0),)


def test_memory_does_not_grow_with_the_experts_but_with_precision_and_size() -> None:
    assert svc_memory(512, 1024, 2, "mixed") == svc_memory(512, 1024, 16, "mixed")
    assert svc_memory(512, 1024, 2, "float64") > svc_memory(512, 1024, 2, "mixed")
    assert svc_memory(1024, 1024, 2, "mixed") > svc_memory(512, 1024, 2, "mixed")
