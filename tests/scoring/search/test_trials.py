"""The trials of a search in its folder: read again, refused for another search, begun anew without scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.errors import ChangedInputError, DamagedInputError, OutputError, RecipeError
from svc_dist.scoring.search.trials import State, Trial, TrialFolder, require_metric
from svc_dist.storage.open import open_storage

SEARCH = {"recipe": "a", "space": {"x": [1, 2]}}
SCORED = Trial(0, 1, {}).scored({"acc": 0.5, "loss": float("nan")}, 1.0)
PROPOSED = Trial(1, 1, {"x": 2})


def folder(path: Path, *trials: Trial, restart: bool = False, **search: object) -> TrialFolder:
    opened = TrialFolder(open_storage(str(path)))
    opened.open(SEARCH | search, restart)
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
    with pytest.raises(
        ChangedInputError, match=r"(?s)since then this changed:\n  space: was .*1, 2.*, is .*3.*--precision"
    ):
        folder(tmp_path, space={"x": [3]})
    assert folder(tmp_path, space={"x": [3]}, restart=True).trials == []


def test_a_search_without_scores_begins_anew_when_it_changed_or_failed(tmp_path: Path) -> None:
    folder(tmp_path, PROPOSED)
    assert folder(tmp_path).trials == [PROPOSED]
    assert folder(tmp_path, space={"x": [3]}).trials == []
    folder(tmp_path, Trial(0, 1, {}).failed("no"), space={"x": [3]})
    assert folder(tmp_path, space={"x": [3]}).trials == []


def test_a_search_whose_scores_are_not_finite_has_no_score(tmp_path: Path) -> None:
    folder(tmp_path, Trial(0, 1, {}).scored({"acc": float("nan")}, 1.0))
    assert folder(tmp_path).trials == []


def test_trials_that_are_tried_again_get_passes_of_their_own(tmp_path: Path) -> None:
    failed = [Trial(number, 1, {"x": number}).failed("no") for number in (1, 2, 3)]
    folder(tmp_path, SCORED, *failed, Trial(4, 2, {"x": 4}).scored({"acc": 0.1}, 1.0))
    again = folder(tmp_path)
    assert again.trials[1:4] == failed
    again.retry(failed, 2)
    assert [(one.batch, one.state) for one in folder(tmp_path).trials[1:4]] == [
        (3, State.PROPOSED), (3, State.PROPOSED), (4, State.PROPOSED),
    ]  # fmt: skip
    assert again.next_batch == 5


def test_a_trial_of_a_pass_that_is_not_complete_stays_in_it(tmp_path: Path) -> None:
    failed = Trial(2, 1, {"x": 2}).failed("no")
    again = folder(tmp_path, SCORED, PROPOSED, failed)
    again.retry([failed], 4)
    assert [one.batch for one in again.trials] == [1, 1, 1]


def test_a_metric_is_missing_where_no_trial_has_it() -> None:
    other = Trial(1, 1, {"x": 1}).scored({"loss": 1.0}, 1.0)
    require_metric([SCORED, other], "acc")
    require_metric([PROPOSED], "acc")
    assert other.score("acc") is None
    assert other.reason("acc") == "--metric acc is none of the metrics that the score command gives: loss"
    assert SCORED.reason("loss") == "its score is not finite"
    assert (SCORED.reason("acc"), PROPOSED.reason("acc")) == (None, None)
    with pytest.raises(RecipeError, match="--metric acc is none"):
        require_metric([other, PROPOSED], "acc")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match=r"mine\.txt, which no search put there"):
        folder(tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder(tmp_path, SCORED)
    (tmp_path / "trials" / "0000.json").write_text("{")
    with pytest.raises(DamagedInputError, match=r"trials/0000\.json cannot be read"):
        folder(tmp_path)


def test_a_damaged_search_can_be_started_over(tmp_path: Path) -> None:
    folder(tmp_path, SCORED)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(DamagedInputError, match="start over with --restart"):
        folder(tmp_path)
    assert folder(tmp_path, restart=True).trials == []
