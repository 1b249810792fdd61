"""Costs of spectral methods: they change where the way of computing does, and grow with what they stand for.

That the stated operations are those that are made is held by tests/methods/test_costs.py, and peaks by test_memory.py.
"""

from __future__ import annotations

import pytest

from svc_dist.methods.method import Method
from svc_dist.methods.registry import METHODS
from svc_dist.methods.spectral.costs import factored_memory, factored_work, formed_memory, swudi_work
from tests.support.spectral_cases import SPECTRAL


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("precision", ["mixed", "fast", "float64"])
def test_larger_matrices_cost_more_operations_and_memory(name: str, precision: str) -> None:
    method: Method = METHODS[name]
    for smaller, larger in [((512, 512), (1024, 512)), ((512, 512), (512, 1024)), ((2048, 2048), (4096, 4096))]:
        assert method.work(*larger, 4, precision).flops > method.work(*smaller, 4, precision).flops
        assert method.memory(*larger, 4, precision) > method.memory(*smaller, 4, precision)


@pytest.mark.parametrize("name", SPECTRAL)
def test_float64_takes_more_memory_than_mixed_and_more_experts_more_operations(name: str) -> None:
    method: Method = METHODS[name]
    assert method.memory(2048, 2048, 4, "float64") >= method.memory(2048, 2048, 4, "mixed")
    assert method.work(2048, 2048, 8, "mixed").flops > method.work(2048, 2048, 4, "mixed").flops


def test_swudi_decomposes_the_smaller_gram_matrix() -> None:
    assert swudi_work(100, 401, 4, "mixed").eigen == ((400, 1.0),)
    assert swudi_work(100, 400, 4, "mixed").eigen == ((400, 1.0),)
    assert swudi_work(100, 300, 4, "mixed").eigen == ((300, 1.0),)


def test_factors_cost_in_their_rank_and_a_formed_delta_in_its_factors() -> None:
    one, two = (factored_work(4096, 4096, rank, 4, "mixed").flops for rank in (64, 128))
    assert 2 < two / one < 4
    assert one < METHODS["swudi"].work(4096, 4096, 4, "mixed").flops / 100
    assert factored_memory(4096, 4096, 64, "mixed") < METHODS["swudi"].memory(4096, 4096, 4, "mixed") / 5
    assert formed_memory(100, 50, 8, "mixed") == 8 * 150 * 4
    assert formed_memory(100, 50, 8, "float64") == 8 * 150 * 8
