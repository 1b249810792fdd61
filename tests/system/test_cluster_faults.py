"""What clusters do to a merge: workers and drivers killed, nodes that join, leave or stop, lost heads, memory."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.checks.status import read_status
from svc_dist.errors import ExitCode
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import shard_hashes
from tests.support.ray_cluster import PATIENCE, RayCluster, ray_cluster, receipts

#: Python that has no svc_dist, wherever it lies.
WITHOUT_SVC_DIST = """
import sys

class Without:
    def find_spec(name, *_):
        if name == "svc_dist":
            raise ModuleNotFoundError("No module named 'svc_dist'", name=name)

sys.meta_path.insert(0, Without)
"""

#: Python in which the units of a name kill their process as soon as they compute.
SICK_UNIT = """
import importlib.abc, importlib.util, os, signal, sys

class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "svc_dist.run.unit":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), sicken(module))
        return spec

def sicken(module):
    run = module._computed
    def computed(plan, unit, *more):
        if unit.id == {unit!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(plan, unit, *more)
    module._computed = computed

sys.meta_path.insert(0, Hook())
"""


def recipe_of(folder: Path, layers: int) -> Path:
    """A merge whose largest units take some tenths of a second."""
    models = write_llamas(folder / "models", experts=2, layers=layers, hidden=512, intermediate=1024, vocabulary=500)
    return write_recipe(folder / "recipe.yaml", models, calibrate="svc", max_shard_size="1MB")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some twenty units."""
    return recipe_of(tmp_path_factory.mktemp("merge"), layers=5)


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("expected") / "out"
    assert svc_dist.merge(recipe, output).units > 15
    return shard_hashes(output)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than a hundred units, so that nodes have time to come and go."""
    return recipe_of(tmp_path_factory.mktemp("long"), layers=24)


@pytest.fixture(scope="module")
def long_expected(long: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("long-expected") / "out"
    svc_dist.merge(long, output)
    return shard_hashes(output)


@pytest.fixture(scope="module")
def largest(recipe: Path) -> str:
    """The unit that runs first, and longest."""
    return max(svc_dist.make_plan(recipe).units, key=lambda unit: unit.work).id


@pytest.fixture(scope="module")
def shared() -> Iterator[RayCluster]:
    """Two nodes, for faults that leave them as they were."""
    with ray_cluster(2) as cluster:
        yield cluster


def kill_workers(cluster: RayCluster, node: str = "") -> bool:
    """Kill the processes that run units; whether there were any."""
    found = cluster.unit_processes(node)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def report(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "merge_report.json").read_text()))


@pytest.mark.slow
def test_a_killed_process_costs_its_units_an_attempt(
    shared: RayCluster, recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    with shared.merge(recipe, tmp_path / "out") as merge:
        merge.until(lambda: len(receipts(tmp_path / "out")) > 1)
        assert kill_workers(shared, "node1")
        assert merge.ends() == ExitCode.DONE, merge.said
    assert shard_hashes(tmp_path / "out") == expected
    start = report(tmp_path / "out")["last_start"]
    assert set(start["attempts"].values()) <= {2}
    assert start["retries"] == len(start["attempts"]) <= 3
    assert start["nodes"]
    assert all(json.loads(line) for line in merge.said.splitlines()), "not all lines are JSON"


@pytest.mark.slow
def test_a_unit_that_kills_every_process_ends_the_run_by_name_and_no_other_unit_fails(
    recipe: Path, expected: dict[str, str], largest: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SICK_UNIT.format(unit=largest))
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    with ray_cluster(2, PYTHONPATH=path) as cluster, cluster.merge(recipe, tmp_path / "out") as merge:
        assert merge.ends() == ExitCode.UNITS_FAILED, merge.said
        said = merge.said
    assert f"unit {largest} (model." in said
    assert "attempts: the worker was lost" in said
    (failed,) = read_status(str(tmp_path / "out")).failed.items()
    assert failed[0] == f"unit {largest}"
    assert failed[1]["attempts"] in (3, 4), "the first does not count where other units were beside it"
    assert failed[1]["node"].endswith(("(127.0.0.2)", "(127.0.0.3)"))
    svc_dist.merge(recipe, tmp_path / "out")
    assert shard_hashes(tmp_path / "out") == expected


@pytest.mark.slow
def test_a_killed_driver_is_started_again_on_the_same_cluster(
    shared: RayCluster, recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    with shared.merge(recipe, tmp_path / "out") as merge:
        merge.until(lambda: len(receipts(tmp_path / "out")) > 3)
    with shared.merge(recipe, tmp_path / "out") as merge:
        assert merge.ends() == ExitCode.DONE, merge.said
    assert "resuming: " in merge.said
    assert shard_hashes(tmp_path / "out") == expected


@pytest.mark.slow
def test_nodes_may_join_and_be_lost(long: Path, long_expected: dict[str, str], tmp_path: Path) -> None:
    """A merge that begins without nodes waits for one; its only node is killed; it ends on another that joined."""
    with ray_cluster(0) as cluster, cluster.merge(long, tmp_path / "out") as merge:
        merge.until(lambda: "merging" in merge.said)
        assert not receipts(tmp_path / "out")
        cluster.wait_for(first := cluster.node(1))
        merge.until(lambda: len(receipts(tmp_path / "out")) > 2)
        cluster.wait_for(cluster.node(2))
        merge.until(lambda: "the cluster has 2 nodes" in merge.said)
        cluster.signal(first, signal.SIGKILL)
        assert merge.ends() == ExitCode.DONE, merge.said
    assert shard_hashes(tmp_path / "out") == long_expected


@pytest.mark.slow
def test_a_stopped_node_is_noticed_by_our_deadline(long: Path, long_expected: dict[str, str], tmp_path: Path) -> None:
    """Ray's own checks are set so that they would not notice within the test."""
    with (
        ray_cluster(2, RAY_health_check_period_ms="600000") as cluster,
        cluster.merge(long, tmp_path / "out", "--unit-deadline", "20") as merge,
    ):
        merge.until(lambda: cluster.unit_processes("node2") and len(receipts(tmp_path / "out")) > 2)
        cluster.signal("node2", signal.SIGSTOP)
        try:
            assert merge.ends() == ExitCode.DONE, merge.said
        finally:
            cluster.signal("node2", signal.SIGCONT)
        assert "no answer within" in merge.said
    assert shard_hashes(tmp_path / "out") == long_expected


@pytest.mark.slow
def test_a_node_whose_memory_is_used_up_gets_no_units(
    long: Path, long_expected: dict[str, str], tmp_path: Path
) -> None:
    """Ray ends whatever runs there, and so also what asks the node what it has."""
    with ray_cluster(1) as cluster:
        cluster.wait_for(cluster.node(2, RAY_memory_usage_threshold="0.01", RAY_memory_monitor_refresh_ms="50"))
        with cluster.merge(long, tmp_path / "out") as merge:
            assert merge.ends() == ExitCode.DONE, merge.said
            assert "gets no units: " in merge.said
            assert "due to the node running low on memory" in merge.said
    assert shard_hashes(tmp_path / "out") == long_expected
    assert report(tmp_path / "out")["low_memory_units"] == []


@pytest.mark.slow
def test_a_node_without_svc_dist_is_not_asked_to_finish_a_shard(
    recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    """It is idle while half of the driver's node works, or more: Ray would send it what books nothing."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_SVC_DIST)
    with ray_cluster(0, "--num-cpus=3") as cluster:
        cluster.wait_for(cluster.node(1, PYTHONPATH=str(tmp_path)))
        with cluster.merge(recipe, tmp_path / "out") as merge:
            assert merge.ends() == ExitCode.DONE, merge.said
            assert "gets no units: ModuleNotFoundError: No module named 'svc_dist'" in merge.said
            assert all(json.loads(line) for line in merge.said.splitlines()), "not all lines are JSON"
    assert shard_hashes(tmp_path / "out") == expected


@pytest.mark.slow
def test_a_merge_whose_head_is_lost_ends_in_order_and_goes_on_elsewhere(
    recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    with ray_cluster(1) as cluster, cluster.merge(recipe, tmp_path / "out") as merge:
        merge.until(lambda: receipts(tmp_path / "out"))
        cluster.signal("head", signal.SIGKILL)
        began = time.monotonic()
        assert merge.ends() == ExitCode.TRY_AGAIN, merge.said
        assert time.monotonic() - began < PATIENCE
        assert "has not answered for 30 s" in merge.said
    svc_dist.merge(recipe, tmp_path / "out")
    assert shard_hashes(tmp_path / "out") == expected
