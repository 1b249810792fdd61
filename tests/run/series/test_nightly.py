"""A merge that is repeated: one output a day, only when something changed, ``latest``, old outputs
(svc_dist.run.series.retention); killed anywhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import DrainedError, LockedError, OutputError, RecipeError, VerificationError
from svc_dist.recipe import paths
from svc_dist.run.series import nightly as module
from svc_dist.run.series import retention
from svc_dist.run.series.nightly import Nightly
from svc_dist.run.session import MergeSummary
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.series.pointer import Pointer
from tests.support.checkpoints import tree_state, write_llamas

EVERY = Nightly(if_changed=True, latest=True, keep=2)
INDEX = "model.safetensors.index.json"


class Killed(BaseException):
    """What stands for SIGKILL: no handler of the package catches it."""


class Series:
    """A recipe whose inputs change, merged day by day into ``out-{date}``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.base, *self.experts = write_llamas(folder)
        self.recipe: dict[str, Any] = {
            "base_model": str(self.base),
            "models": [{"model": str(expert)} for expert in self.experts],
            "merge_method": "linear",
        }
        self.day(1)

    def day(self, number: int) -> None:
        self._monkeypatch.setattr(paths, "today", lambda: f"2026-11-{number:02d}")

    def change(self) -> None:
        """A new version of an input: other times, as a training job leaves them."""
        file = next(self.experts[0].glob("*.safetensors"))
        status = file.stat()
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))

    def start(self, nightly: Nightly = EVERY, **options: Any) -> MergeSummary:
        output = self.folder / "out-{date}"
        return svc_dist.merge(self.recipe, output, executor="inline", nightly=nightly, **options)

    def out(self, number: int) -> Path:
        return self.folder / f"out-2026-11-{number:02d}"

    @property
    def complete(self) -> list[str]:
        """The days whose model is whole."""
        return sorted(path.parent.name[-2:] for path in self.folder.glob(f"out-2026*/{INDEX}"))

    @property
    def latest(self) -> str:
        return str((self.folder / "out-latest").readlink())


@pytest.fixture
def series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Series:
    monkeypatch.setattr(logging.getLogger("svc_dist"), "propagate", True)  # a command may have cleared it
    return Series(tmp_path, monkeypatch)


def test_a_merge_runs_only_when_something_changed(series: Series) -> None:
    assert series.start().executor == "inline"
    before = tree_state(series.out(1))
    series.day(2)
    summary = series.start()
    assert (summary.executor, summary.output) == ("none", str(series.out(1)))
    assert tree_state(series.out(1)) == before
    assert series.complete == ["01"]
    series.change()
    assert series.start().output == str(series.out(2))
    assert series.complete == ["01", "02"]
    assert series.latest == "out-2026-11-02"
    series.day(3)
    series.recipe["parameters"] = {"weight": 0.25}
    assert series.start().output == str(series.out(3))
    assert series.complete == ["02", "03"]
    assert not series.out(1).exists()


def test_a_change_after_todays_merge_waits_for_tomorrow(series: Series, caplog: pytest.LogCaptureFixture) -> None:
    series.start()
    before = tree_state(series.out(1))
    series.change()
    assert series.start().executor == "none"
    assert "the change is merged tomorrow" in caplog.text
    assert tree_state(series.out(1)) == before
    assert series.start(restart=True).executor == "inline"
    assert series.start(restart=True).executor == "none", "nothing changed: no restart"
    series.day(2)
    assert series.start().executor == "none"


def test_an_unfinished_merge_is_resumed_after_midnight(series: Series) -> None:
    with pytest.raises(DrainedError):
        series.start(max_runtime=0)
    series.day(2)
    assert series.start().output == str(series.out(1))
    assert series.latest == "out-2026-11-01"


def test_an_unfinished_merge_of_other_inputs_makes_way_for_todays(series: Series) -> None:
    with pytest.raises(DrainedError):
        series.start(max_runtime=0)
    series.change()
    series.day(2)
    assert series.start().output == str(series.out(2))
    assert not series.out(1).exists()
    series.day(3)
    series.change()
    with pytest.raises(DrainedError):
        series.start(max_runtime=0)
    series.change()
    assert series.start().output == str(series.out(3)), "on the same day in the same place"


def test_an_unfinished_merge_that_runs_stays(series: Series) -> None:
    with pytest.raises(DrainedError):
        series.start(max_runtime=0)
    series.change()
    with Output(str(series.out(1))).lock(), pytest.raises(LockedError):
        series.start()
    assert (series.out(1) / ".svc_dist" / "plan.json").exists()


def _killed(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, after: bool) -> None:
    """Have a function kill the process before, or after, it does its work."""
    work: Callable[..., Any] = getattr(where, name)

    def kill(*arguments: Any, **named: Any) -> None:
        if after:
            work(*arguments, **named)
        raise Killed

    monkeypatch.setattr(where, name, kill)


STEPS = [
    (module._Start, "settle", False),  # published, not verified
    (Pointer, "switch", False),
    (Pointer, "switch", True),
    (module, "remove_older", False),
    (module, "remove_older", True),
]


@pytest.mark.parametrize(("where", "name", "after"), STEPS)
def test_killed_at_a_step_the_next_start_finishes(
    series: Series, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, after: bool
) -> None:
    for day in (1, 2):
        series.day(day)
        series.change()
        series.start()
    series.day(3)
    series.change()
    with monkeypatch.context() as patch:
        _killed(patch, where, name, after)
        patch.setattr(module._Start, "_settle_before_a_merge", lambda self: None)  # it would be killed before the merge
        with pytest.raises(Killed):
            series.start()
    assert series.start().executor == "none"
    assert series.latest == "out-2026-11-03"
    assert series.complete == ["02", "03"]
    assert not series.out(1).exists()


@pytest.mark.parametrize("deleted", [0, 1, 3])
def test_a_removal_that_was_killed_is_finished(series: Series, monkeypatch: pytest.MonkeyPatch, deleted: int) -> None:
    series.start()
    (series.out(1) / "notes.txt").write_text("mine")
    series.day(2)
    series.change()
    storage, count = type(Output(str(series.out(1))).storage), [0]
    delete = storage.delete

    def dies(self: Any, name: str) -> None:
        if self.path == series.out(1):
            if count[0] == deleted:
                raise Killed
            count[0] += 1
        delete(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", dies)
        with pytest.raises(Killed):
            series.start(Nightly(True, True, 1))
    assert series.latest == "out-2026-11-02", "switched before anything is removed"
    series.start(Nightly(True, True, 1))
    assert [path.name for path in series.out(1).iterdir()] == ["notes.txt"], "others' files stay"


def test_the_merge_that_latest_names_is_never_removed(series: Series) -> None:
    for day in (1, 2, 3):
        series.day(day)
        series.change()
        series.start(Nightly())
    (series.folder / "out-latest").symlink_to("out-2026-11-01")
    damaged = series.out(3) / "model.safetensors.index.json"
    damaged.write_text(damaged.read_text().replace("layers.0", "layers.7"))
    with pytest.raises(VerificationError, match="stays as it is"):
        series.start(Nightly(True, True, 1))
    assert series.latest == "out-2026-11-01"
    retention.remove_older(*_pointed(series))
    assert series.complete == ["01", "03"]


def _pointed(series: Series) -> tuple[Any, int, Pointer]:
    from svc_dist.run_folder.series.dates import series_of
    from svc_dist.storage.access import DEFAULT_ACCESS

    its = series_of(str(series.folder / "out-{date}"), DEFAULT_ACCESS)[1]
    assert its is not None
    return its, 1, Pointer(its)


def test_what_is_not_a_complete_merge_of_the_series_stays(series: Series) -> None:
    foreign = series.folder / "out-2026-10-01"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"mine")
    other = series.folder / "other-2026-10-01"
    svc_dist.merge(series.recipe, other, executor="inline")
    series.start(Nightly(keep=1))
    series.day(2)
    series.change()
    series.start(Nightly(keep=1))
    assert series.complete == ["02"]
    assert (foreign / "model.safetensors").read_bytes() == b"mine"
    assert (other / INDEX).exists()


def test_a_folder_in_the_place_of_the_pointer_is_refused_before_the_merge(series: Series) -> None:
    (series.folder / "out-latest").mkdir()
    with pytest.raises(OutputError, match="no pointer of svc-dist"):
        series.start()
    assert series.complete == []


@pytest.mark.parametrize("nightly", [Nightly(latest=True), Nightly(keep=3)])
def test_a_series_takes_a_date(series: Series, nightly: Nightly) -> None:
    with pytest.raises(RecipeError, match=r"takes an OUTPUT with \{date\}"):
        svc_dist.merge(series.recipe, series.folder / "out", executor="inline", nightly=nightly)


def test_a_fixed_output_is_replaced_only_if_something_changed(series: Series) -> None:
    changed, output = Nightly(if_changed=True), series.folder / "fixed"
    for _ in range(2):
        last = svc_dist.merge(series.recipe, output, executor="inline", nightly=changed, restart=True)
    assert last.executor == "none"
    series.change()
    with pytest.raises(svc_dist.SvcDistError, match="complete merge of something else"):
        svc_dist.merge(series.recipe, output, executor="inline", nightly=changed)
    with pytest.raises(DrainedError):
        svc_dist.merge(series.recipe, output, executor="inline", nightly=changed, restart=True, max_runtime=0)
    resumed = svc_dist.merge(series.recipe, output, executor="inline", nightly=changed, restart=True)
    assert resumed.executor == "inline"


def test_keep_is_a_whole_number() -> None:
    with pytest.raises(RecipeError, match="keep is 0"):
        Nightly(keep=0)
