"""A start records while it advances, how it ends when it fails, and nothing once its units are all done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from svc_dist.errors import DrainedError, ExitCode, Interrupted, StorageError
from svc_dist.plan.make import make_plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.starts import record
from svc_dist.run_folder.starts.record import START_FILE, RecordedStart, read_start
from tests.support.checkpoints import recipe_data, write_llamas


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    return make_plan(load_recipe(recipe_data(write_llamas(tmp_path / "models"), max_shard_size="4kB")), Settings())


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (StorageError("the disk is full"), ExitCode.STORAGE, "the disk is full"),
        (DrainedError("asked to stop"), ExitCode.TRY_AGAIN, "asked to stop"),
        (Interrupted(), ExitCode.TRY_AGAIN, "interrupted"),
        (KeyError("x"), ExitCode.INTERNAL, "KeyError: 'x'"),
    ],
)
def test_how_a_start_ended(plan: Any, tmp_path: Path, error: BaseException, code: int, text: str) -> None:
    output = Output(str(tmp_path / "out"))
    start = RecordedStart(output, plan, lambda: (1, None))
    start.__enter__()
    begun = read_start(output.journal.storage)
    start.__exit__(type(error), error, None)
    assert begun is not None
    assert (begun.ended, begun.exit_code) == (None, None)
    ended = read_start(output.journal.storage)
    assert ended is not None
    assert (ended.exit_code, ended.error) == (code, text)
    assert ended.ended is not None
    assert ended.ended >= ended.started


def test_a_run_that_advances_is_recorded_until_its_units_are_done(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "EVERY", 0.01)
    output, done = Output(str(tmp_path / "out")), 0

    with RecordedStart(output, plan, lambda: (done, 7.0)) as start:
        done = 2
        for _ in range(500):
            start._thread.join(0.01)
            seen = read_start(output.journal.storage)
            assert seen is not None
            if seen.units_done == 2:
                break
        assert (seen.units_done, seen.eta_seconds) == (2, 7.0)
        done = len(plan.units)
        start._thread.join(10)
        assert not start._thread.is_alive(), "publishing may remove the run folder from now on"
    assert output.journal.storage.get(START_FILE) is None


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    assert read_start(output.journal.storage) is None
    output.journal.storage.put(START_FILE, b"{")
    assert read_start(output.journal.storage) is None
