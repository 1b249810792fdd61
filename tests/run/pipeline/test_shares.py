"""How the cores and the memory of a node are divided among its processes."""

from __future__ import annotations

from svc_dist.run.pipeline.shares import LANES, Share, of_node, shares, within


def test_processes_compute_a_few_units_each_and_share_the_memory() -> None:
    assert shares(2 * LANES + 2, 1000, 10) == [Share(3, 333), Share(3, 333), Share(4, 333)]
    assert shares(LANES, 1000, 10) == [Share(LANES, 1000)]
    assert shares(1, 1000, 10) == [Share(1, 1000)]


def test_the_largest_unit_fits_into_every_share_as_far_as_it_fits_into_the_node() -> None:
    assert shares(4 * LANES, 1000, 400) == [Share(2 * LANES, 500)] * 2
    assert shares(4 * LANES, 1000, 5000) == [Share(4 * LANES, 1000)]
    assert shares(2 * LANES, 0, 10) == [Share(2 * LANES, 0)], "its memory is not known"


def test_a_node_without_cores_for_a_unit_has_no_share() -> None:
    assert of_node({"CPU": 3.0, "memory": 100.0}, 0, 4, 64, 10) == []
    assert of_node({}, 0, 1, 64, 10) == []
    assert of_node({"CPU": 2.0, "GPU": 2.0}, 2, 1, 64, 10) == [], "the processes of its GPUs take both"


def test_what_a_node_has_beside_its_gpus_and_no_more_than_a_run_needs() -> None:
    assert of_node({"CPU": 8.0, "memory": 100.0}, 0, 2, 64, 10) == [Share(4, 100)]
    assert of_node({"CPU": 4.0, "GPU": 2.0, "memory": 100.0}, 2, 1, 64, 10) == [Share(2, 50)]
    assert of_node({"CPU": 32.0, "memory": 100.0}, 0, 1, 2, 10) == [Share(2, 100)]


def test_other_work_keeps_what_it_has_booked() -> None:
    assert within(Share(4, 100), {"CPU": 5.0, "memory": 70.0}, 2) == Share(2, 70)
    assert within(Share(4, 100), {}, 1) == Share(0, 0)
    assert within(Share(4, 100), None, 1) == Share(4, 100), "Ray does not say"
