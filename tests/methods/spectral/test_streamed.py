"""SWUDI in blocks, for when memory is short: the same result but for rounding, in less memory."""

from __future__ import annotations

import pytest
import torch

from svc_dist.methods.deltas import TaskDeltas
from tests.support.peak_memory import CountedMemory
from tests.support.spectral_cases import error, fine_tunes, run

SHAPES = [(900, 200), (300, 300), (1600, 1100), (100, 600)]  # the last is done through the small Gram matrix


def deltas_of(shape: tuple[int, int], low_memory: bool, precision: str = "mixed") -> TaskDeltas:
    base, *experts = fine_tunes(*shape, 3)
    return TaskDeltas(experts, base, precision=precision, low_memory=low_memory)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("name", "given"), [("swudi", {"init": "sum"}), ("swudi", {"init": "mean", "rank_ratio": 0.3}), ("swudi_a", {})]
)
def test_the_result_is_the_same_but_for_rounding(name: str, given: dict[str, object], shape: tuple[int, int]) -> None:
    usual, low = (run(name, deltas_of(shape, low_memory), **given) for low_memory in (False, True))
    assert error(low.delta, usual.delta.double()) < 2e-5
    assert low.summary["kept_rank"] == usual.summary["kept_rank"]


@pytest.mark.parametrize(("shape", "most"), [((4400, 1100), 0.85), ((64, 8000), 0.6)], ids=str)
def test_it_takes_less_memory(shape: tuple[int, int], most: float) -> None:
    peaks = []
    for low_memory in (False, True):
        deltas = deltas_of(shape, low_memory)
        with CountedMemory() as memory:
            run("swudi", deltas, rank_ratio=0.85)
        peaks.append(memory.mib)
    assert peaks[1] < most * peaks[0], peaks


def test_a_wide_matrix_takes_the_usual_way_which_takes_less_memory() -> None:
    usual, low = (run("swudi", deltas_of((200, 300), low_memory)) for low_memory in (False, True))
    assert torch.equal(low.delta, usual.delta)
