"""A merge from S3 to S3 on a cluster of several hosts, while these are cut off, stopped, killed and replaced.

Each has an address, files and processes of its own; see ``hosts.py``. What a fault cost is printed (``pytest -s``).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import ExitCode
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import shard_hashes, short_home
from tests.support.host_cluster import HostCluster, HostedMerge, done_by
from tests.support.hosts import Host, why_not
from tests.support.s3_files import put_models

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
OPTIONS: dict[str, Any] = {"calibrate": "svc", "max_shard_size": "800KB"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Their merge has some forty units, each a shard of its own."""
    folder = tmp_path_factory.mktemp("models")
    return write_llamas(folder, experts=2, layers=8, hidden=384, intermediate=1024, vocabulary=1000)


@pytest.fixture(scope="module")
def expected(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an inline merge of the local files makes."""
    folder = tmp_path_factory.mktemp("expected")
    svc_dist.merge(write_recipe(folder / "r.yaml", models, **OPTIONS), folder / "out", executor="inline")
    return shard_hashes(folder / "out")


@pytest.fixture
def merge(models: list[Path], expected: dict[str, str]) -> Iterator[HostedMerge]:
    with short_home() as folder, HostCluster(folder) as cluster:
        with cluster.s3():
            locations = put_models(cluster.bucket, models)
        recipe = write_recipe(cluster.folder / "r.yaml", locations, **OPTIONS)
        cluster.wait_for(2)
        yield HostedMerge(cluster, recipe, expected)


def test_workers_are_cut_off_killed_and_come_back_one_after_the_other(merge: HostedMerge) -> None:
    cluster = merge.cluster
    calm = HostedMerge(cluster, merge.recipe, merge.expected, "calm")
    with calm.start() as driver:
        undisturbed = calm.require_complete(driver)
    assert calm.report()["hosts"] == ["w1", "w2"]
    with merge.start() as driver:
        before = merge.wait(driver, done_by("w1", "w2", units=6))
        cluster.hosts.cut("w1")
        cut = time.monotonic()
        driver.wait_to_say(", attempt 1: ")
        print(f"the unit on the worker that was cut off: given up {time.monotonic() - cut:.1f} s after the cut")
        merge.wait(driver, lambda now: len(now) >= len(before) + 4)
        cluster.hosts["w2"].kill()
        killed = time.monotonic()
        cluster.hosts.mend("w1")  # its node, which counts as dead, ends when it hears of it, and starts again
        seconds = merge.require_complete(driver)
        print(f"complete {time.monotonic() - killed:.1f} s after the other was killed and the first mended")
        print(f"{seconds:.1f} s in all, {undisturbed:.1f} s undisturbed: {seconds - undisturbed:.1f} s lost")
        assert driver.done()["retries"] >= 1, "the one that was killed may have been between two units"
    assert merge.report()["hosts"] == ["w1", "w2"]


def test_a_host_that_is_stopped_is_missed_and_does_no_harm_when_it_goes_on(merge: HostedMerge) -> None:
    worker = merge.cluster.hosts["w1"]
    with merge.start() as driver:
        merge.wait(driver, done_by("w1", "w2", units=6))
        worker.stop()
        stopped = time.monotonic()
        driver.wait_to_say(", attempt 1: ")
        print(f"the unit on the stopped host: given up {time.monotonic() - stopped:.1f} s later")
        merge.require_complete(driver)
        print(f"complete {time.monotonic() - stopped:.1f} s after the stop")
    worker.go_on()
    end = time.monotonic() + 120
    while units_on(worker):
        assert time.monotonic() < end, worker.processes()
        time.sleep(0.1)
    merge.require_published()  # whatever they still did


def test_a_process_that_hangs_on_a_node_that_is_well_is_given_up(merge: HostedMerge) -> None:
    """By our deadline, or by the connection's keepalive, whichever notices first."""
    worker = merge.cluster.hosts["w1"]
    with merge.start("--unit-deadline", "20") as driver:
        merge.wait(driver, done_by("w1", "w2", units=6))
        while not (units := units_on(worker)):
            time.sleep(0.01)
        for pid in units:
            os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        driver.wait_to_say(", attempt 1: ")
        print(f"the unit that hung: given up {time.monotonic() - stopped:.1f} s later")
        merge.require_complete(driver)
        print(f"complete {time.monotonic() - stopped:.1f} s after the stop")


def units_on(worker: Host) -> list[int]:
    """Processes of a worker that run units."""
    names = ("ray::merge_unit", "ray::UnitProcess")
    return [pid for pid, command in worker.processes().items() if command.startswith(names)]


def test_a_driver_whose_head_is_lost_ends_soon_and_the_next_one_goes_on(merge: HostedMerge) -> None:
    cluster = merge.cluster
    cluster.hosts.add("desk")
    cluster.start_node("desk", cpus=0)
    with merge.start(on="desk") as driver:
        merge.wait(driver, done_by("w1", "w2", units=6))
        cluster.hosts["head"].kill()
        lost = time.monotonic()
        code, _ = driver.wait()
        print(f"exit code {code} {time.monotonic() - lost:.0f} s after the head was lost")
        assert code == ExitCode.TRY_AGAIN, driver.said()
        assert "the head of the Ray cluster" in driver.said()
    before = merge.receipts()
    assert len(before) >= 6
    cluster.hosts.add("head")
    cluster.start_head()
    cluster.wait_for(2)
    with merge.start(on="desk") as driver:
        merge.require_complete(driver)
        assert driver.done()["units_resumed"] >= len(before)
