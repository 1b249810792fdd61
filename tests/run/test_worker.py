"""Ranges that storage lost before their shard is finished come back to the schedule, and the result is the same."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.errors import StorageError
from svc_dist.run.schedule import Done, FinishShard, Instruction, RangesLost, RunUnit
from svc_dist.run.worker import Worker
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import shard_hashes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(
        tmp_path_factory.mktemp("models"), experts=2, layers=2, hidden=64, intermediate=128, vocabulary=100
    )


@pytest.fixture
def recipe(models: list[Path], tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", models, calibrate="svc", max_shard_size="40KB")


@pytest.fixture(scope="module")
def expected(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("expected")
    recipe = write_recipe(folder / "recipe.yaml", models, calibrate="svc", max_shard_size="40KB")
    svc_dist.merge(recipe, folder / "out", executor="inline")
    return shard_hashes(folder / "out")


class Losses:
    """What workers execute, with ``remove`` called just before the first ``times`` attempts to finish a shard."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, remove: Callable[[Worker, int], None], times: int = 1) -> None:
        self.instructions: list[Instruction] = []
        self.lost: list[str] = []
        execute = Worker.execute

        def losing(worker: Worker, instruction: Instruction) -> Done | RangesLost:
            self.instructions.append(instruction)
            finishing = sum(isinstance(item, FinishShard) for item in self.instructions)
            if isinstance(instruction, FinishShard) and finishing <= times:
                remove(worker, instruction.shard)
            outcome = execute(worker, instruction)
            if isinstance(outcome, RangesLost):
                self.lost += outcome.units
            return outcome

        monkeypatch.setattr(Worker, "execute", losing)


def partial(worker: Worker, shard: int) -> Path:
    return Path(worker.output.location) / ".svc_dist" / "partial" / worker.plan.shards[shard].file


def test_a_partial_file_that_vanished_is_written_again(
    recipe: Path, tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses(monkeypatch, lambda worker, shard: partial(worker, shard).unlink())
    report = svc_dist.merge(recipe, tmp_path / "out", executor="inline")
    assert losses.lost
    assert report.retries == len(losses.lost)
    for unit in losses.lost:
        assert losses.instructions.count(RunUnit(unit)) == 2
    assert shard_hashes(tmp_path / "out") == expected
    assert verify(str(tmp_path / "out"), deep=True).ok


def test_a_receipt_that_vanished_costs_its_unit(
    recipe: Path, tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(worker: Worker, shard: int) -> None:
        unit = next(unit for unit in worker.plan.units if unit.shard == shard)
        worker.journal.storage.delete(f"receipts/{unit.id}.json")

    losses = Losses(monkeypatch, remove)
    assert svc_dist.merge(recipe, tmp_path / "out", executor="inline").retries == 1
    assert len(losses.lost) == 1
    assert shard_hashes(tmp_path / "out") == expected


def test_a_shard_that_vanishes_every_time_ends_the_run_and_the_next_start_resumes(
    recipe: Path, tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        losses = Losses(patch, lambda worker, shard: partial(worker, shard).unlink(), times=1000)
        with pytest.raises(StorageError, match="is gone"):
            svc_dist.merge(recipe, tmp_path / "out", executor="inline", slots=1)
        finishing = [item for item in losses.instructions if isinstance(item, FinishShard)]
        assert max(finishing.count(item) for item in finishing) == 4
    svc_dist.merge(recipe, tmp_path / "out", executor="inline")
    assert shard_hashes(tmp_path / "out") == expected


def test_a_shard_of_one_result_that_vanished_is_written_again_in_all(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [{"path": name, "parameters": {"lambda": scale}} for name, scale in (("half", 0.5), ("whole", 1.0))]
    recipe = write_recipe(tmp_path / "recipe.yaml", models, max_shard_size="40KB", outputs=outputs)
    svc_dist.merge(recipe, tmp_path / "expected", executor="inline")
    losses = Losses(monkeypatch, lambda worker, shard: partial(worker, worker.plan.shards_of(shard)[1]).unlink())
    svc_dist.merge(recipe, tmp_path / "out", executor="inline")
    assert losses.lost
    for name in ("half", "whole"):
        assert shard_hashes(tmp_path / "out" / name) == shard_hashes(tmp_path / "expected" / name)


@pytest.fixture
def remote() -> Iterator[str]:
    root = f"memory://{uuid.uuid4().hex}"
    yield root
    fsspec.filesystem("memory").rm(root, recursive=True)


def test_a_staged_piece_that_vanished_is_written_again(
    recipe: Path, tmp_path: Path, remote: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")

    def remove(worker: Worker, shard: int) -> None:
        pieces = memory.ls(f"{remote}/.svc_dist/pieces/{worker.plan.shards[shard].file}", detail=False)
        memory.rm(sorted(pieces)[0])

    losses = Losses(monkeypatch, remove)
    svc_dist.merge(recipe, remote, executor="inline")
    assert len(losses.lost) == 1
    memory.get(f"{remote}/", f"{tmp_path}/out/", recursive=True)
    assert shard_hashes(tmp_path / "out") == expected
