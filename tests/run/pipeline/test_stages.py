"""Threads on their way through the stages, and whole merges whose units read ahead and write behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import DrainedError, StorageError
from svc_dist.run import unit as unit_module
from svc_dist.run.pipeline.stages import Stages
from svc_dist.run_folder.journal import Journal
from svc_dist.run_folder.receipt import Receipt
from svc_dist.storage.paging import ahead
from svc_dist.storage.writing import local
from tests.support.checkpoints import tree_state, write_llamas, write_recipe
from tests.support.command import shard_hashes

WAIT = 30.0


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


class Unit(threading.Thread):
    """A unit that stays in each stage until it is told to go on; ``at``: the last stage that it has entered."""

    def __init__(self, stages: Stages, size: int = 10, fails: bool = False) -> None:
        super().__init__(daemon=True)
        self.stages, self.size, self.fails = stages, size, fails
        self.at = ""
        self.go = {stage: threading.Event() for stage in ("read", "compute", "write")}
        self.start()

    def run(self) -> None:
        try:
            with self.stages.passage(self.size) as passage:
                self.stay("read")
                passage.compute()
                self.stay("compute")
                passage.computed()
                self.stay("write")
        except ValueError:
            self.at = "failed"
        except DrainedError:
            self.at = "drained"

    def stay(self, stage: str) -> None:
        self.at = stage
        assert self.go[stage].wait(WAIT)
        if self.fails:
            raise ValueError


def test_a_unit_is_read_computed_and_written_at_the_same_time_as_its_neighbours() -> None:
    stages = Stages(window=1000, lanes=1)
    first, second, third = (Unit(stages) for _ in range(3))
    for unit in (first, second):
        unit.go["read"].set()
    eventually(lambda: "compute" in (first.at, second.at))
    computing, waiting = (first, second) if first.at == "compute" else (second, first)
    computing.go["compute"].set()
    eventually(lambda: (computing.at, waiting.at, third.at) == ("write", "compute", "read"))
    for unit in (first, second, third):
        for event in unit.go.values():
            event.set()
        unit.join(WAIT)
        assert not unit.is_alive()


@pytest.mark.parametrize("stage", ["read", "compute"])
def test_a_unit_that_fails_lets_the_next_one_in(stage: str) -> None:
    stages = Stages(window=10, lanes=1)
    failing = Unit(stages)
    eventually(lambda: failing.at == "read")
    if stage == "compute":
        failing.go["read"].set()
        eventually(lambda: failing.at == "compute")
    second = Unit(stages)
    time.sleep(0.05)
    assert second.at == ""
    failing.fails = True
    failing.go[stage].set()
    eventually(lambda: (failing.at, second.at) == ("failed", "read"))
    for event in second.go.values():
        event.set()
    second.join(WAIT)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return write_llamas(folder, experts=2, layers=2, hidden=64, intermediate=128, vocabulary=100)


@pytest.fixture(scope="module")
def recipe(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "recipe.yaml", models, max_shard_size="40KB")


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("expected")
    svc_dist.merge(recipe, folder / "out", executor="inline", slots=1)
    return shard_hashes(folder / "out")


class Calls:
    """The calls of a function, the first of which waits until ``before`` holds."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, before: Callable[[], bool] = lambda: True
    ) -> None:
        self.count = 0
        function = getattr(where, name)

        def counted(*arguments: Any) -> Any:
            self.count += 1
            if self.count == 1:
                eventually(before)
            return function(*arguments)

        monkeypatch.setattr(where, name, counted)


def test_with_one_slot_other_units_read_and_compute_while_one_is_written(
    recipe: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Calls(monkeypatch, ahead.Ahead, "wait")
    computing = Calls(monkeypatch, unit_module, "_computed", before=lambda: reading.count > 1)
    writing = Calls(monkeypatch, local._LocalRange, "commit", before=lambda: computing.count > 1)
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", slots=1)
    assert shard_hashes(tmp_path / "out") == expected
    assert reading.count == computing.count == writing.count > 1


@pytest.mark.parametrize(("where", "name"), [(ahead.Ahead, "wait"), (local._LocalRange, "commit")])
def test_a_stage_that_fails_ends_the_run_and_the_next_start_resumes(
    recipe: Path,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: type,
    name: str,
) -> None:
    function, calls = getattr(where, name), []

    def failing(*arguments: Any) -> Any:
        calls.append(name)
        if len(calls) == 5:
            raise StorageError("the disk is gone")
        return function(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, failing)
        with pytest.raises(StorageError, match="the disk is gone"):
            svc_dist.merge(recipe, tmp_path / "out", executor="inline", slots=1)
    done = len(list((tmp_path / "out" / ".svc_dist" / "receipts").iterdir()))
    assert svc_dist.merge(recipe, tmp_path / "out", executor="inline", slots=1).units_resumed == done
    assert shard_hashes(tmp_path / "out") == expected


def test_when_a_run_drains_units_that_compute_finish_and_the_others_end() -> None:
    stages = Stages(window=10, lanes=1)
    computing = Unit(stages)
    computing.go["read"].set()
    eventually(lambda: computing.at == "compute")
    waiting = Unit(stages)
    stages.drain()
    eventually(lambda: waiting.at == "drained")
    computing.go["compute"].set()
    eventually(lambda: computing.at == "write")
    computing.go["write"].set()
    computing.join(WAIT)
    late = Unit(stages)
    eventually(lambda: late.at == "drained")


def test_a_run_that_is_asked_to_stop_does_not_compute_what_it_has_read(
    recipe: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = unit_module._computed

    def stopping(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.0)  # the driver looks twice a second
        return computed(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(unit_module, "_computed", stopping)
        with pytest.raises(DrainedError):
            svc_dist.merge(recipe, tmp_path / "out", executor="inline", slots=1)
    assert len(list((tmp_path / "out" / ".svc_dist" / "receipts").iterdir())) == 1
    assert svc_dist.merge(recipe, tmp_path / "out", executor="inline", slots=1).units_resumed == 1
    assert shard_hashes(tmp_path / "out") == expected


def test_a_merge_that_has_ended_writes_nothing_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an error ends it at once, while other units write and others record what they have written."""
    record, first = Journal.record, threading.Lock()

    def stopping(self: Journal, receipt: Receipt) -> None:
        if first.acquire(blocking=False):
            time.sleep(0.1)  # the others come to their receipts
            raise RuntimeError("a bug")
        time.sleep(0.3)
        record(self, receipt)

    monkeypatch.setattr(Journal, "record", stopping)
    recipe = write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path / "models"), max_shard_size="1kB")
    with pytest.raises(RuntimeError, match="a bug"):
        svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu", slots=2)
    left = tree_state(tmp_path / "out")
    time.sleep(0.6)
    assert tree_state(tmp_path / "out") == left
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("RunUnit", "FinishShard"))]
