"""A score command: quoted, ended in time with whatever it started, and its failure told without credentials."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from svc_dist.errors import EvaluationError
from svc_dist.scoring.command import score
from tests.support.ended import wait_until_ended


def test_the_location_is_quoted_and_in_the_environment(tmp_path: Path) -> None:
    folder = tmp_path / "a b; echo 3"
    folder.mkdir()
    (folder / "value").write_text("0.75")
    assert score("echo noise; cat {output}/value", str(folder)).metrics == {"score": 0.75}
    assert score('cat "$SVC_DIST_OUTPUT/value" # {output}', str(folder)).metrics == {"score": 0.75}


def test_scores_in_files() -> None:
    found = score("""echo 1; mkdir {scores}/m && echo '{"acc": 0.5}' > {scores}/m/r.json # {output}""", "model")
    assert found.metrics == {"acc": 0.5}


def test_a_failure_shows_what_was_said_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2hunter2")
    with pytest.raises(EvaluationError) as caught:
        score("echo bad $MY_API_KEY >&2; exit 3 # {output} --token abcdefgh", "model")
    assert "exited with 3" in str(caught.value)
    assert "| bad ..." in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "abcdefgh" not in str(caught.value)


def test_a_command_that_says_no_number() -> None:
    with pytest.raises(EvaluationError, match="the last line of the command's output, 'fine', holds no score"):
        score("echo fine # {output}", "model")


def test_a_command_that_takes_too_long_ends_with_what_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(EvaluationError, match=r"longer than 0\.5 s"):
        score(f"sleep 300 & echo $! > {tmp_path}/pid; wait # {{output}}", "model", timeout=0.5)
    assert time.monotonic() - began < 9
    wait_until_ended(int((tmp_path / "pid").read_text()))
