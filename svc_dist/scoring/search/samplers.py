"""Which values to try next: every combination, values spread over the space, or those that a model expects most of.

What a sampler proposes depends on the trials so far and on the seed alone, so that a search resumes as if it had never
stopped.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from svc_dist.errors import MissingExtraError, RecipeError
from svc_dist.scoring.search.space import Dimension, Space

_TRIES = 10_000  # draws for a combination that was not tried yet
_ASKED_AGAIN = 20  # times that a model may propose what was tried
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)


class Sampler(StrEnum):
    """How a search chooses values."""

    AUTO = "auto"
    GRID = "grid"
    RANDOM = "random"
    BAYES = "bayes"


@dataclass(frozen=True)
class Tried:
    """The values of an earlier trial, and its score: None where it has none."""

    values: Mapping[str, Any]
    score: float | None


#: Values for so many trials, from the earlier ones.
Propose = Callable[[Sequence[Tried], int], list[dict[str, Any]]]


def chosen(sampler: Sampler, space: Space, trials: int | None, before: str = "") -> Sampler:
    """The sampler that ``auto`` stands for: ``grid`` where every combination is tried. Raises RecipeError.

    ``before``: that of the search in the folder, if any: with another number of trials, ``auto`` continues with it.
    """
    size = space.size
    if sampler is Sampler.GRID and size is None:
        name = next(one.name for one in space.dimensions if not one.values)
        raise RecipeError(
            f"--sampler grid: {name} is a range", f"write {name}: {{range: [...], steps: 5}}", code="search-refused"
        )
    if sampler is not Sampler.AUTO:
        return sampler
    if before in (Sampler.GRID, Sampler.RANDOM):
        return Sampler(before)
    return Sampler.GRID if size is not None and (trials is None or trials >= size) else Sampler.RANDOM


def proposer(sampler: Sampler, space: Space, seed: int, minimise: bool) -> Propose:
    """What proposes values. Raises MissingExtraError where optuna is not installed."""
    if sampler is Sampler.BAYES:
        _optuna()
        return lambda tried, count: _bayes(space, seed, minimise, tried, count)
    if sampler is Sampler.GRID:
        every = list(space.combinations())
        return lambda tried, count: every[len(tried) : len(tried) + count]
    return lambda tried, count: _spread(space, seed, tried, count)


def _spread(space: Space, seed: int, tried: Sequence[Tried], count: int) -> list[dict[str, Any]]:
    """The next points of a Halton sequence that is shifted at random; none twice."""
    dimensions = space.dimensions
    draws = random.Random(seed)
    shifts = [draws.random() for _ in dimensions]
    bases = [*_PRIMES, *range(73, 73 + 2 * len(dimensions), 2)]
    seen: list[Mapping[str, Any]] = [one.values for one in tried]
    found: list[dict[str, Any]] = []
    number, last = 0, len(seen) + count + _TRIES
    while len(found) < count and number < last:
        number += 1
        shares = ((_radical(number, base) + shift) % 1 for base, shift in zip(bases, shifts, strict=False))
        values = {one.name: one.at(share) for one, share in zip(dimensions, shares, strict=True)}
        if values not in seen:
            found.append(values)
            seen.append(values)
    return found


def _radical(number: int, base: int) -> float:
    """The digits of a number in a base, mirrored at the point."""
    result, scale = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        scale /= base
        result += digit * scale
    return result


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError(
            "--sampler bayes needs optuna, which is not installed",
            "pip install 'svc-dist[search]', or --sampler random",
        ) from None
    return optuna


def _bayes(space: Space, seed: int, minimise: bool, tried: Sequence[Tried], count: int) -> list[dict[str, Any]]:
    """What a tree-structured Parzen estimator expects most of; several at a time keep apart from each other.

    None twice: where it proposes what was tried, it is asked again, and at last values spread over the space follow.
    """
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {one.name: _distribution(optuna, one) for one in space.dimensions}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that options are experimental
        sampler = optuna.samplers.TPESampler(
            seed=seed + len(tried), constant_liar=True, n_startup_trials=max(5, 2 * len(distributions))
        )
        study = optuna.create_study(direction="minimize" if minimise else "maximize", sampler=sampler)
        for one in tried:
            values = {each.name: _coded(each, one.values[each.name]) for each in space.dimensions}
            fails = one.score is None or not math.isfinite(one.score)
            state = optuna.trial.TrialState.FAIL if fails else optuna.trial.TrialState.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(
                    params=values, distributions=distributions, value=None if fails else one.score, state=state
                )
            )
        seen: list[Mapping[str, Any]] = [one.values for one in tried]
        found: list[dict[str, Any]] = []
        for _ in range(count + _ASKED_AGAIN):
            if len(found) < count:
                asked = study.ask(distributions).params
                values = {one.name: _decoded(one, asked[one.name]) for one in space.dimensions}
                if values not in seen:
                    found.append(values)
                    seen.append(values)
    return found + _spread(space, seed, [Tried(one, None) for one in seen], count - len(found))


def _distribution(optuna: Any, one: Dimension) -> Any:
    """A list of numbers keeps its order, as positions; other lists have none."""
    if one.values:
        if _is_ordered(one):
            return optuna.distributions.IntDistribution(0, len(one.values) - 1)
        return optuna.distributions.CategoricalDistribution(one.values)
    kind = optuna.distributions.IntDistribution if one.whole else optuna.distributions.FloatDistribution
    return kind(one.low, one.high, log=one.log)


def _is_ordered(one: Dimension) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in one.values)


def _coded(one: Dimension, value: Any) -> Any:
    return one.values.index(value) if one.values and _is_ordered(one) else value


def _decoded(one: Dimension, value: Any) -> Any:
    if one.values:
        return one.values[value] if _is_ordered(one) else value
    return one.rounded(value)
