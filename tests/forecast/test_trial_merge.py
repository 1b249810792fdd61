"""The small merge that measures a machine: its models are real, its rates plausible, and it cleans up."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import fsspec
import pytest

import svc_dist
from svc_dist.errors import StorageError
from svc_dist.forecast import trial_merge
from svc_dist.forecast.trial_merge import TrialMerge, require_writable
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.checkpoints import recipe_data


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two megabytes a model: the real size takes a minute."""
    monkeypatch.setattr(trial_merge, "_BYTES", 2 << 20)
    monkeypatch.setattr(trial_merge, "_LEAST", 1 << 19)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("lanes", "units"), [(1, 4), (6, 6)])
def test_there_are_as_many_tensors_as_lanes_or_four(tmp_path: Path, lanes: int, units: int) -> None:
    trial = TrialMerge(tmp_path, lanes, threads=1)
    models = [tmp_path / name for name in ("base", "expert0", "expert1", "expert2")]
    plan = svc_dist.make_plan(recipe_data(models))
    assert len(plan.tensors) == units
    assert trial.expert == models[-1] / "model.safetensors"
    assert all(
        file.read_bytes() != trial.expert.read_bytes() for file in (m / "model.safetensors" for m in models[:-1])
    )


@pytest.mark.usefixtures("small")
def test_rates_of_a_storage_are_measured_there_and_nothing_stays(tmp_path: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    rates = TrialMerge(tmp_path, 2, threads=1).on_storage(f"{root}/prefix", DEFAULT_ACCESS)
    assert all(rate > 1e5 for rate in dataclasses.astuple(rates))
    assert fsspec.filesystem("memory").find(root) == []


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_merge_by_the_command_is_measured_and_removed(tmp_path: Path) -> None:
    (rates,) = TrialMerge(tmp_path, 1, threads=1).merge([1])
    assert min(rates.computed, rates.written, rates.read) > 1e5
    assert 0 < rates.overhead < 120
    assert not (tmp_path / "merged").exists()


@pytest.mark.usefixtures("small")
def test_a_merge_that_fails_says_where_and_why(tmp_path: Path) -> None:
    trial = TrialMerge(tmp_path, 1, threads=1)
    trial.expert.unlink()
    with pytest.raises(StorageError, match=f"a small merge in {tmp_path} failed: .*expert2"):
        trial.merge([1])


def test_a_place_that_can_be_written_to_is_left_empty_and_another_is_refused(tmp_path: Path) -> None:
    require_writable(str(tmp_path), DEFAULT_ACCESS)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="file"):
        require_writable(str(tmp_path / "file"), DEFAULT_ACCESS)
