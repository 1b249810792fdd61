"""A batch continues after a failure and stops on request; its record (svc_dist.run.batch.record) says how far it is."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from svc_dist.errors import (
    ClusterLostError,
    DeviceFailedError,
    DrainedError,
    ExitCode,
    Interrupted,
    LockedError,
    OutputError,
    RecipeError,
    StorageError,
    UnitsFailedError,
)
from svc_dist.run.batch.batch import run_batch
from svc_dist.run.batch.jobs import Job
from svc_dist.run.batch.record import BatchRecord
from svc_dist.run.devices.chosen import on_cluster
from svc_dist.run.executors import ray as ray_executor
from svc_dist.run.options import Options
from svc_dist.run.session import MergeSummary
from svc_dist.run.signals.stopping import signals
from svc_dist.storage.access import DEFAULT_ACCESS


def summary(job: Job, executor: str = "inline") -> MergeSummary:
    return MergeSummary(job.output, "f" * 64, 1, 1, 1, 0, 0, 2000, 1000, 0.1, executor, "mixed", ())


def merging(**raised: BaseException) -> Callable[[Job, float | None], MergeSummary]:
    """A merge that fails for the jobs of these names."""

    def merge(job: Job, runtime: float | None) -> MergeSummary:
        if job.name in raised:
            raise raised[job.name]
        return summary(job)

    return merge


class Batch:
    def __init__(self, folder: Path, names: str) -> None:
        self.file = folder / "report.json"
        jobs = [Job(name, f"{name}.yaml", f"out/{name}") for name in names]
        self.record = BatchRecord(jobs, str(self.file), DEFAULT_ACCESS)

    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found

    def states(self) -> list[str]:
        return [merge["state"] for merge in self.data()["merges"]]


def test_one_that_fails_does_not_stop_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batch = Batch(tmp_path, "abc")
    logging.getLogger("svc_dist").propagate = True
    run_batch(batch.record, merging(b=RecipeError("b is wrong", "correct it", code="not-a-recipe")))
    assert batch.states() == ["complete", "failed", "complete"]
    assert batch.data()["state"] == "failed"
    assert batch.data()["exit_code"] == batch.record.exit_code == ExitCode.USAGE
    row = batch.data()["merges"][1]
    assert (row["exit_code"], row["code"], row["error"]) == (2, "not-a-recipe", "b is wrong")
    assert "error: b: b is wrong\n  correct it" in caplog.text


def test_a_bug_is_a_failure_of_its_merge_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batch = Batch(tmp_path, "ab")
    logging.getLogger("svc_dist").propagate = True
    run_batch(batch.record, merging(a=ZeroDivisionError()))
    assert batch.states() == ["failed", "complete"]
    assert batch.record.exit_code == ExitCode.INTERNAL
    assert "please report it with its trace" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("stop", [DrainedError("asked"), ClusterLostError("gone"), Interrupted(), KeyboardInterrupt()])
def test_a_stop_ends_the_batch_and_the_record_says_what_is_left(tmp_path: Path, stop: BaseException) -> None:
    batch = Batch(tmp_path, "abc")
    with pytest.raises(type(stop)):
        run_batch(batch.record, merging(a=RecipeError("wrong"), b=stop))
    assert batch.states() == ["failed", "stopped", "waiting"]
    assert (batch.data()["state"], batch.data()["exit_code"]) == ("stopped", ExitCode.TRY_AGAIN)


def test_the_exit_code_is_the_worst_and_says_whether_another_start_may_help(tmp_path: Path) -> None:
    errors: list[BaseException] = [RecipeError(""), LockedError(""), StorageError(""), UnitsFailedError("")]
    seen = []
    for count in range(5):
        batch = Batch(tmp_path, "abcde")
        run_batch(batch.record, merging(**dict(zip("abcd", errors[:count], strict=False))))
        seen.append(batch.record.exit_code)
    assert seen == [0, 2, 2, 4, 6]
    batch = Batch(tmp_path, "ab")
    run_batch(batch.record, merging(a=LockedError("")))
    assert batch.record.exit_code == ExitCode.LOCKED


@pytest.mark.parametrize("error", [None, UnitsFailedError("one")])
def test_a_stop_that_a_merge_took_at_its_end_stops_the_batch(tmp_path: Path, error: BaseException | None) -> None:
    def merge(job: Job, runtime: float | None) -> MergeSummary:
        with signals(threading.Event()):
            signal.raise_signal(signal.SIGTERM)
        return merging(**({} if error is None else {"a": error}))(job, runtime)

    batch = Batch(tmp_path, "ab")
    with pytest.raises(DrainedError, match="asked to stop: 1 merge of the batch"):
        run_batch(batch.record, merge)
    assert batch.states() == ["complete" if error is None else "failed", "waiting"]
    assert batch.record.exit_code == ExitCode.TRY_AGAIN


def test_the_time_limit_is_one_for_all(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "ab")
    given: list[float | None] = []

    def merge(job: Job, runtime: float | None) -> MergeSummary:
        given.append(runtime)
        return summary(job)

    run_batch(batch.record, merge, runtime=100)
    assert given[0] is not None
    assert given[1] is not None
    assert 90 < given[1] < given[0] <= 100
    with pytest.raises(DrainedError, match="2 merges of the batch have not begun"):
        run_batch(Batch(tmp_path, "ab").record, merge, runtime=0)


def test_a_report_that_cannot_be_written_is_refused_before_the_first_merge(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = BatchRecord([Job("a", "a.yaml", "out")], f"{tmp_path}/file/report.json", DEFAULT_ACCESS)
    with pytest.raises(StorageError, match="cannot write"):
        run_batch(record, merging(a=AssertionError("it began to merge")))


def test_a_report_that_is_lost_on_the_way_stops_no_merge(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batch = Batch(tmp_path / "there", "ab")
    logging.getLogger("svc_dist").propagate = True

    def merge(job: Job, runtime: float | None) -> MergeSummary:
        if batch.file.parent.is_dir():
            batch.file.unlink()
            batch.file.parent.rmdir()
            batch.file.parent.write_text("")
        return summary(job)

    run_batch(batch.record, merge)
    assert batch.record.exit_code == 0
    assert "warning: the report of the batch was not written" in caplog.text


def test_the_table_has_a_line_for_each_then_the_errors_then_a_sum(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "abc")
    with pytest.raises(DrainedError):
        run_batch(batch.record, merging(a=RecipeError("a is wrong\nmore"), b=DrainedError("the merge is not complete")))
    lines = list(batch.record.table())
    assert [line.split()[:3] for line in lines[:4]] == [
        ["recipe", "result", "exit"], ["a", "failed", "2"], ["b", "stopped", "75"], ["c", "waiting", "out/c"],
    ]  # fmt: skip
    assert lines[4:] == [
        "a: a is wrong", "b: the merge is not complete", f"0 of 3 merges complete; report: {batch.file}",
    ]  # fmt: skip


def test_after_its_gpu_failed_no_merge_begins_in_the_same_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    batch = Batch(tmp_path, "abc")
    run_batch(batch.record, merging(a=DeviceFailedError("cuda failed: CUDA error: an illegal memory access")))
    assert batch.states() == ["failed", "waiting", "waiting"]
    assert batch.data()["exit_code"] == batch.record.exit_code == ExitCode.UNITS_FAILED
    assert "2 merges of the batch did not begin" in caplog.messages[-1]
    last = Batch(tmp_path, "ab")
    run_batch(last.record, merging(b=DeviceFailedError("cuda failed")))
    assert last.states() == ["complete", "failed"]
    assert "did not begin" not in caplog.messages[-1]


def test_the_merges_share_one_connection_to_their_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SimpleNamespace] = []

    def connect(address: str) -> SimpleNamespace:
        made.append(SimpleNamespace(address=address, closed=0))
        made[-1].close = lambda: setattr(made[-1], "closed", made[-1].closed + 1)
        return made[-1]

    def merge(job: Job, runtime: float | None) -> MergeSummary:
        with on_cluster(Options(address="head:6379")) as options:
            seen.append((options.connection, made[-1].closed))
        return summary(job)

    seen: list[Any] = []
    monkeypatch.setattr(ray_executor, "connect", connect)
    batch = Batch(tmp_path, "abc")
    run_batch(batch.record, merge)
    assert seen == [(made[0], 0)] * 3
    assert [one.closed for one in made] == [1]
    run_batch(Batch(tmp_path, "a").record, merge)
    assert len(made) == 2


def test_a_device_is_not_replaced_by_the_record(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(OutputError, match="device"):
        BatchRecord([], str(tmp_path / "null"), DEFAULT_ACCESS)
