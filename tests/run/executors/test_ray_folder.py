"""A temporary folder that is too long for Ray's sockets is replaced, or named with the variable to set."""

from __future__ import annotations

import pytest

from svc_dist.errors import RecipeError
from svc_dist.run.executors import ray_folder
from svc_dist.run.executors.ray_folder import fits, temporary_folder

LONG = "/scratch/slurm/job_4711/" + "x" * 40


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def test_short_folders_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary_folder() == {}
    monkeypatch.setenv("TMPDIR", "/scratch/4711/")
    assert temporary_folder() == {}
    monkeypatch.setenv("TMPDIR", LONG)
    monkeypatch.setenv("RAY_TMPDIR", "/scratch")
    assert temporary_folder() == {}


def test_a_long_one_is_replaced_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TMPDIR", LONG)
    assert temporary_folder() == {"_temp_dir": "/tmp/ray"}
    assert f"TMPDIR={LONG} is too long" in caplog.text


def test_without_a_short_one_the_message_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", LONG)
    monkeypatch.setattr(ray_folder, "_SHORT", "/nowhere/ray")
    with pytest.raises(RecipeError, match=r"TMPDIR=.* is too long") as caught:
        temporary_folder()
    assert "set RAY_TMPDIR to a folder" in str(caught.value.hint)


def test_a_long_one_that_is_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", LONG)
    with pytest.raises(RecipeError, match=r"RAY_TMPDIR=.* is too long"):
        temporary_folder()


def test_the_limit_is_the_system_s() -> None:
    assert fits("/tmp/ray")
    assert fits("/" + "x" * 30)
    assert not fits("/" + "x" * 60)
