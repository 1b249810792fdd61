"""A one-node Ray that is late is cleared away and started again, a few times."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from svc_dist.errors import StorageError
from svc_dist.run.executors.ray_nodes import start_here, stop_here
from tests.support.command import short_home

OPTIONS = {"num_cpus": 1, "log_to_driver": False, "logging_level": "warning", "configure_logging": False}
WAIT = "RAY_gcs_server_port_wait_time_s"


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray told to wait no time at all for its first process: that is always too late."""
    import ray

    with short_home() as home:
        monkeypatch.setenv("RAY_TMPDIR", str(home))
        monkeypatch.setenv(WAIT, "0")
        yield
        ray.shutdown()


def children() -> list[str]:
    """The command lines of this process's children; of one that is dead, if not yet buried, nothing."""
    lines = []
    for child in [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]:
        with contextlib.suppress(FileNotFoundError):
            lines.append(Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return lines


def ray_processes() -> list[str]:
    programs = [line.split(" ")[0].rpartition("/")[2] for line in children()]
    return [name for name in programs if name in ("gcs_server", "raylet")]


@pytest.mark.usefixtures("no_patience")
def test_a_start_that_times_out_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    class Calm(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            monkeypatch.setenv(WAIT, "120")

    log, calm = logging.getLogger("svc_dist"), Calm()
    log.addHandler(calm)
    try:
        start_here(ray, OPTIONS)
    finally:
        log.removeHandler(calm)
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    assert [record.message.split(":")[0] for record in caplog.records] == ["starting Ray on this machine failed"]
    assert sorted(ray_processes()) == ["gcs_server", "raylet"]


@pytest.mark.usefixtures("no_patience")
def test_starts_that_all_time_out_end_with_an_error_and_leave_no_process(caplog: pytest.LogCaptureFixture) -> None:
    import ray

    with pytest.raises(StorageError, match="starting Ray on this machine failed"):
        start_here(ray, OPTIONS)
    assert len(caplog.records) == 2
    deadline = time.monotonic() + 30
    while ray_processes() and time.monotonic() < deadline:  # killed, they take a moment to go
        time.sleep(0.02)
    assert not ray_processes()
    assert not ray.is_initialized()


def test_the_autoscaler_is_gone_before_ray_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def scalers() -> list[str]:
        return [line for line in children() if "/ray/autoscaler/" in line]

    def shutdown() -> None:
        deadline = time.monotonic() + 30
        while scalers() and time.monotonic() < deadline:
            time.sleep(0.02)
        left.append(scalers())
        end()

    left: list[list[str]] = []
    end = ray.shutdown
    with short_home() as home:
        monkeypatch.setenv("RAY_TMPDIR", str(home))
        try:
            start_here(ray, OPTIONS)
            assert len(scalers()) == 1
            monkeypatch.setattr(ray, "shutdown", shutdown)
            stop_here(ray)
        finally:
            end()
    assert left == [[]]
    assert not ray_processes()
