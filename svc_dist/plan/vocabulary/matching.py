"""Matching rows by token: from the vocabularies of the models to the row maps of a tensor. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svc_dist.plan.vocabulary.row_maps import Row, RowMaps, filled_runs, own_runs


@dataclass(frozen=True)
class Tokens:
    """The tokens of a model, and how many rows its tensor has. ``numbers``: None where nothing is known of them."""

    numbers: Mapping[str, int] | None
    rows: int


@dataclass(frozen=True)
class FixedRow:
    """What a row is in models that do not have its token, or in all where ``force``; ``of`` as in ``Piece``."""

    of: tuple[Row, ...]
    force: bool


def row_maps(
    result: Mapping[str, int],
    rows: int,
    start: int | None,
    models: Sequence[Tokens | None],
    *,
    prefer_base: bool = True,
    fixed: Mapping[int, FixedRow] | None = None,
    padding: int = 0,
) -> RowMaps:
    """The row maps of a tensor of ``rows`` rows, and ``padding`` more.

    ``result``: the row of each token; ``start``: the model whose numbering the result begins with, None for another's;
    ``models``: of each source, None for one that has the base's rows. A model that does not have a token gets the row
    of the only model that has it, else the base's (``prefer_base``), else the mean of those that have it; zero where no
    model has it. A row that is no token's is the one of that number where it is no token's either.
    """
    named = _Named(list(result), np.fromiter(result.values(), np.int64, len(result)), rows)
    stored = [_own(named, model, number == start) for number, model in enumerate(models)]
    fixed = fixed or {}
    forced = [row for row, one in fixed.items() if one.force]
    has = np.array([np.full(rows, -1) if one is None else one for one in stored]) >= 0
    missing = np.array([one is not None for one in stored])
    filled: list[tuple[int, tuple[Row, ...]]] = []
    for row in np.flatnonzero(~has[missing].all(axis=0) | np.isin(np.arange(rows), forced)):
        number = int(row)
        if number in fixed:
            filled.append((number, fixed[number].of))
            continue
        holders = [int(one) for one in np.flatnonzero(has[:, row])]
        if 0 in holders and prefer_base:
            holders = [0]
        filled.append((number, tuple((one, int(_array(stored[one])[row])) for one in holders)))
    for one in stored:
        if one is not None:
            one[forced] = -1
    own = tuple(() if one is None else own_runs(one) for one in stored)
    return RowMaps(rows + padding, own, filled_runs(filled), padding)


def common_rows(maps: RowMaps) -> int:
    """How many rows all models have themselves."""
    missing = np.ones(maps.rows, dtype=bool)
    for own in maps.own:
        for start, _, count in own:
            missing[start : start + count] = False
    for start, count, _ in maps.filled:
        missing[start : start + count] = True
    return int((~missing[: maps.rows - maps.padding]).sum())


def _array(one: NDArray[np.int64] | None) -> NDArray[np.int64]:
    assert one is not None
    return one


@dataclass(frozen=True)
class _Named:
    """The tokens of the result, and the row of each. An added token is after another name of its number."""

    tokens: Sequence[str]
    numbers: NDArray[np.int64]
    rows: int


def _own(named: _Named, model: Tokens | None, is_start: bool) -> NDArray[np.int64] | None:
    """The stored row of each row in one model, -1 where it has none; None for a model that has the base's."""
    if model is None:
        return None
    rows, known = np.arange(named.rows), model.numbers
    if known is None:
        return np.where(rows < model.rows, rows, -1)
    inside = (named.numbers >= 0) & (named.numbers < named.rows)
    taken, tokens = np.zeros(named.rows, dtype=bool), np.zeros(named.rows, dtype=bool)
    numbers = np.fromiter(known.values(), np.int64, len(known))
    taken[numbers[(numbers >= 0) & (numbers < named.rows)]] = True
    tokens[named.numbers[inside]] = True
    stored = np.where((rows < model.rows) & ~taken & ~tokens, rows, -1)  # of no token, here and there
    found = np.fromiter((known.get(token, -1) for token in named.tokens), np.int64, len(named.tokens))
    known_here = inside & (found >= 0) & (found < model.rows)
    stored[named.numbers[known_here]] = found[known_here]
    return np.where((rows < model.rows) & taken, rows, stored) if is_start else stored
