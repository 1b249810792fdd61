"""What Ray says of its nodes, and what a process there is asked before it gets units."""

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
from svc_dist.run.executors.ray_nodes import own_sigterm, start_here
from svc_dist.run.executors.ray_processes import RayProcesses
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


def asked(ray: Any) -> RayProcesses:
    """The processes, once they have answered."""
    processes = RayProcesses(ray)
    processes.use(Settings(threads_per_unit=1), 64, 1)
    processes.refresh(ray.wait(list(processes.probes), timeout=120)[0])
    return processes


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
    until = time.monotonic() + 60
    while ray_nodes.idle_resources(ray) != {node["NodeID"]: node["Resources"] for node in ray.nodes()}:
        assert time.monotonic() < until, "the process before has given its cores back"
        time.sleep(0.1)
    processes = asked(ray)
    (key,) = processes.available
    assert processes.available[key].slots == CPUS
    assert next(iter(ray_nodes.idle_resources(ray).values())).get("CPU", 0.0) == 0.0
    process = processes.process(key)
    assert process is not None
    running = process.actor.found.remote()
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--node-id", process.node, *reason]
    address = ["--address", ray.get_runtime_context().gcs_address, "--deadline-remaining-seconds", "120"]
    subprocess.run([*command, *address], check=True, capture_output=True)
    assert processes.refresh()
    assert not processes.available
    assert ray.get(running).versions == ray_nodes.own_versions()
    with pytest.raises(ray.exceptions.RayTaskError, match="DrainedError"):
        ray.get(process.actor.execute.remote(("", "", None, None), None))
