"""Samplers: every combination once, an even spread, better values where scores are, and the same after a resume."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from svc_dist.errors import MissingExtraError, RecipeError
from svc_dist.scoring.search.samplers import Sampler, Tried, chosen, proposer
from svc_dist.scoring.search.space import Axis, Dimension, Space

RANGES = Space((Axis(("parameters", "x"), (Dimension("x", 0.0, 1.0), Dimension("y", 1.0, 100.0, log=True)), ""),))
LISTS = Space((Axis(("parameters", "x"), (Dimension("x", values=(1, 2, 3)), Dimension("y", values=("a", "b"))), ""),))
with_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")


def run(sampler: Sampler, space: Space, count: int, batch: int, minimise: bool = False) -> list[dict[str, Any]]:
    propose = proposer(sampler, space, 7, minimise)
    tried: list[Tried] = []
    while len(tried) < count and (found := propose(tried, min(batch, count - len(tried)))):
        tried += [Tried(one, -((one["x"] - 0.3) ** 2) if isinstance(one["x"], float) else 0.0) for one in found]
    return [dict(one.values) for one in tried]


def test_a_grid_is_every_combination_once_in_any_passes() -> None:
    assert run(Sampler.GRID, LISTS, 99, 4) == run(Sampler.GRID, LISTS, 99, 6) == list(LISTS.combinations())


def test_random_values_spread_over_the_ranges_whatever_the_passes() -> None:
    found = run(Sampler.RANDOM, RANGES, 16, 4)
    assert found == run(Sampler.RANDOM, RANGES, 16, 5)
    for low in (0.0, 0.25, 0.5, 0.75):
        assert sum(low <= one["x"] < low + 0.25 for one in found) == 4
    assert sum(one["y"] < 10 for one in found) in (7, 8, 9)


def test_random_values_of_lists_never_repeat() -> None:
    found = run(Sampler.RANDOM, LISTS, 99, 4)
    assert len(found) == 6
    assert all(one in found for one in LISTS.combinations())


def test_what_auto_stands_for() -> None:
    assert chosen(Sampler.AUTO, LISTS, None) is Sampler.GRID
    assert chosen(Sampler.AUTO, LISTS, 6) is Sampler.GRID
    assert chosen(Sampler.AUTO, LISTS, 5) is Sampler.RANDOM
    assert chosen(Sampler.AUTO, RANGES, None) is Sampler.RANDOM
    assert chosen(Sampler.AUTO, LISTS, 6, before="random") is Sampler.RANDOM
    assert chosen(Sampler.AUTO, LISTS, 5, before="bayes") is Sampler.RANDOM
    with pytest.raises(RecipeError, match="x is a range"):
        chosen(Sampler.GRID, RANGES, None)


@with_optuna
@pytest.mark.parametrize("space", [RANGES, LISTS])
def test_bayes_proposes_the_same_after_a_resume(space: Space) -> None:
    first = run(Sampler.BAYES, space, 8, 4)
    assert first == run(Sampler.BAYES, space, 8, 4)
    names = [one.name for one in space.dimensions]
    assert all(list(one) == names for one in first)


@with_optuna
def test_bayes_tries_nothing_twice() -> None:
    found = run(Sampler.BAYES, LISTS, 99, 4)
    assert len(found) == 6
    assert all(one in found for one in LISTS.combinations())


@with_optuna
def test_bayes_comes_closer_to_the_best_value() -> None:
    found = run(Sampler.BAYES, RANGES, 56, 4)
    early, late = (sum(abs(one["x"] - 0.3) for one in part) for part in (found[:8], found[-8:]))
    assert late < early / 2


@with_optuna
def test_bayes_learns_nothing_from_trials_without_a_score() -> None:
    propose = proposer(Sampler.BAYES, RANGES, 0, True)
    tried = [Tried({"x": 0.1 * n, "y": 10.0}, None if n % 2 else float(n)) for n in range(8)]
    assert len(propose(tried, 3)) == 3


def test_bayes_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"svc-dist\[search\]"):
        proposer(Sampler.BAYES, RANGES, 0, False)
