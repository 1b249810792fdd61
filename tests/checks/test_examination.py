"""The findings of ``doctor`` together."""

from __future__ import annotations

from svc_dist.checks.examination import Examination, Finding
from svc_dist.errors import ExitCode, ResourceError, StorageError

FINE = Finding("plan", "3 units")
FULL = Finding("space", "", StorageError("no room", "free some"))
SMALL = Finding("memory", "", ResourceError("1 GB is too little"))


def test_a_finding_is_one_line() -> None:
    problem = StorageError("no room\nat all", "free some")
    assert Finding("disk", "", problem).text() == "disk: no room at all; free some"
    assert Finding("disk", "", problem).exit_code == ExitCode.STORAGE
    assert Finding("disk", "fine").exit_code == ExitCode.DONE


def test_the_first_problem_decides_the_exit_code() -> None:
    assert Examination((FINE,)).ok
    assert Examination((FINE,)).exit_code == ExitCode.DONE
    assert Examination((FINE, SMALL, FULL)).exit_code == ResourceError.exit_code
    assert Examination((FULL, SMALL)).exit_code == StorageError.exit_code
    assert not Examination((FINE, FULL)).ok


def test_text_and_data_have_every_finding() -> None:
    both = Examination((FINE, FULL))
    assert both.text().splitlines() == ["ok     plan: 3 units", "WRONG  space: no room; free some"]
    assert both.data()["state"] == "wrong"
    assert [one["subject"] for one in both.data()["findings"]] == ["plan", "space"]
