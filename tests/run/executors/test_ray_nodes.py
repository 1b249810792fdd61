"""What a Ray node is asked and told before it gets units."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from svc_dist.plan.settings import Settings
from svc_dist.run.executors import ray_nodes
from svc_dist.run.executors.ray_nodes import RayNodes, own_sigterm, start_here
from tests.support.command import short_home

CPUS = 2


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    import ray

    with short_home() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(home))
        before = signal.getsignal(signal.SIGTERM)
        with own_sigterm():
            start_here(ray, {"num_cpus": CPUS, "log_to_driver": False, "logging_level": "warning"})
            assert signal.getsignal(signal.SIGTERM) != before, "Ray leaves it alone now: own_sigterm can go"
        assert signal.getsignal(signal.SIGTERM) == before
        yield ray
        ray.shutdown()


def asked(ray: Any) -> RayNodes:
    """The nodes, once they have answered."""
    nodes = RayNodes(ray, Settings(), 64)
    nodes.refresh(ray.wait(list(nodes.probes), timeout=120)[0])
    return nodes


def test_units_meet_workers_that_have_imported_what_they_need(ray: Any) -> None:
    nodes = asked(ray)
    assert [node.slots for node in nodes.available.values()] == [CPUS]

    @ray.remote(num_cpus=1)
    def ready() -> bool:
        time.sleep(1)  # or one worker would do both
        return "svc_dist.run.unit" in sys.modules and "torch" in sys.modules

    assert ray.get([ready.remote() for _ in range(CPUS)]) == [True] * CPUS


def test_the_node_of_a_ray_that_this_command_started_need_not_be_asked(ray: Any) -> None:
    nodes = RayNodes(ray, Settings(), 64, started_here=True)
    assert not nodes.probes
    assert [node.slots for node in nodes.available.values()] == [CPUS]


def test_a_node_with_another_version_gets_no_units(
    ray: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_nodes, "__version__", "0.0.1")  # this process's; the node answers with what it has
    assert not asked(ray).available
    (record,) = caplog.records
    assert "gets no units: it has" in record.message
    assert "0.0.1" in record.message.split("and this command")[1]
    assert "0.0.1" not in record.message.split("and this command")[0]


def test_variables_of_the_environment_are_set_for_a_time_and_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SVC_DIST_A", raising=False)
    monkeypatch.setenv("SVC_DIST_B", "theirs")
    before = dict(os.environ)
    with ray_nodes.environment({"SVC_DIST_A": "ours", "SVC_DIST_B": "ours"}):
        assert (os.environ["SVC_DIST_A"], os.environ["SVC_DIST_B"]) == ("ours", "theirs")
    assert dict(os.environ) == before


def test_a_node_that_is_to_end_gets_no_more_units_and_finishes_what_it_runs(ray: Any) -> None:
    """The last test of this cluster: its only node is drained."""
    nodes = asked(ray)

    @ray.remote(num_cpus=1)
    def running() -> str:
        time.sleep(5)
        return "finished"

    unit = running.remote()
    (node,) = nodes.available
    time.sleep(2)
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--node-id", node, *reason]
    address = ["--address", ray.get_runtime_context().gcs_address, "--deadline-remaining-seconds", "120"]
    subprocess.run([*command, *address], check=True, capture_output=True)
    assert nodes.refresh()
    assert not nodes.available
    assert ray.get(unit) == "finished"
