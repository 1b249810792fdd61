"""Costs of element-wise work: by entry and expert, and bounded memory whatever the tensor's size."""

from __future__ import annotations

from svc_dist.methods.chunking import CHUNK, COLLECTED, SAMPLE
from svc_dist.methods.elementwise.costs import linear_work, memory_of_chunks, memory_of_selection, of_result, per_entry


def test_operations_are_counted_by_entry_and_expert() -> None:
    assert linear_work(10, 20, 4, "mixed").elementwise == (3 * 4 + 2) * 200
    work = per_entry(7.0)(10, 20, 4, "mixed")
    assert work.elementwise == work.flops == 7 * 4 * 200


def test_chunks_take_the_same_memory_for_every_tensor_and_twice_in_float64() -> None:
    mixed, wide = (memory_of_chunks(precision) for precision in ("mixed", "float64"))
    assert wide - mixed == 12 * CHUNK * 4
    assert of_result(10, 20, 4, "float64") == 2 * of_result(10, 20, 4, "mixed")


def test_selection_is_bounded_by_its_sample_and_what_it_collects() -> None:
    assert memory_of_selection(100, "mixed") == 600 * 4
    largest = memory_of_selection(10**12, "mixed")
    assert largest == memory_of_selection(10**15, "mixed") == (4 * SAMPLE + 2 * COLLECTED) * 4
