"""The trials of a search in its folder: read again, refused for another search, begun anew without scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.errors import ChangedInputError, DamagedInputError, OutputError
from svc_dist.scoring.search.trials import State, Trial, TrialFolder
from svc_dist.storage.open import open_storage

SEARCH = {"recipe": "a", "space": {"x": [1, 2]}}
SCORED = Trial(0, 1, {}).scored({"acc": 0.5, "loss": float("nan")}, 1.0)
PROPOSED = Trial(1, 1, {"x": 2})


def folder(path: Path, *trials: Trial, restart: bool = False, retry: bool = False, **search: object) -> TrialFolder:
    opened = TrialFolder(open_storage(str(path)))
    opened.open(SEARCH | search, restart, retry)
    opened.record(trials)
    return opened


def test_trials_are_there_again(tmp_path: Path) -> None:
    folder(tmp_path, PROPOSED, SCORED)
    again = folder(tmp_path)
    assert again.trials == [SCORED, PROPOSED]
    assert again.trials[0].score("acc") == 0.5
    assert again.trials[0].score("loss") is None
    assert again.trials[1].score("acc") is None


def test_scores_of_another_search_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, SCORED)
    with pytest.raises(ChangedInputError, match=r"(?s)since then this changed:\n  space: was .*1, 2.*, is .*3"):
        folder(tmp_path, space={"x": [3]})
    assert folder(tmp_path, space={"x": [3]}, restart=True).trials == []


def test_a_search_without_scores_begins_anew_when_it_changed_or_failed(tmp_path: Path) -> None:
    folder(tmp_path, PROPOSED)
    assert folder(tmp_path).trials == [PROPOSED]
    assert folder(tmp_path, space={"x": [3]}).trials == []
    folder(tmp_path, Trial(0, 1, {}).failed("no"), space={"x": [3]})
    assert folder(tmp_path, space={"x": [3]}).trials == []


def test_failed_trials_stay_until_they_are_to_be_tried_again(tmp_path: Path) -> None:
    failed = PROPOSED.failed("no")
    folder(tmp_path, SCORED, failed)
    assert folder(tmp_path).trials == [SCORED, failed]
    (first, second) = folder(tmp_path, retry=True).trials
    assert (first, second.state, second.batch, second.values) == (SCORED, State.PROPOSED, 2, {"x": 2})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match=r"mine\.txt, which no search put there"):
        folder(tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder(tmp_path, SCORED)
    (tmp_path / "trials" / "0000.json").write_text("{")
    with pytest.raises(DamagedInputError, match=r"trials/0000\.json cannot be read"):
        folder(tmp_path)
