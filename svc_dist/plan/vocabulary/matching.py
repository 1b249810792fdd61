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
    names = _by_row(result, rows)
    stored = [_own(names, rows, model, number == start) for number, model in enumerate(models)]
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


def common_tokens(result: Mapping[str, int], rows: int, models: Sequence[Tokens | None], start: int | None) -> int:
    """How many rows of the result all models have."""
    names = _by_row(result, rows)
    stored = [_own(names, rows, model, number == start) for number, model in enumerate(models) if model is not None]
    return int((np.array(stored) >= 0).all(axis=0).sum())


def _array(one: NDArray[np.int64] | None) -> NDArray[np.int64]:
    assert one is not None
    return one


def _by_row(result: Mapping[str, int], rows: int) -> list[list[str]]:
    """The tokens of each row: an added token that another name has the number of is the last."""
    names: list[list[str]] = [[] for _ in range(rows)]
    for token, row in result.items():
        if 0 <= row < rows:
            names[row].append(token)
    return names


def _own(names: Sequence[Sequence[str]], rows: int, model: Tokens | None, is_start: bool) -> NDArray[np.int64] | None:
    """The stored row of each row in one model, -1 where it has none; None for a model that has the base's."""
    if model is None:
        return None
    stored = np.full(rows, -1, dtype=np.int64)
    known = model.numbers
    if known is None:
        stored[: min(rows, model.rows)] = np.arange(min(rows, model.rows))
        return stored
    taken = set(known.values())
    for row, tokens in enumerate(names):
        if is_start and row < model.rows and (row in taken or not tokens):
            stored[row] = row
        elif not tokens:
            stored[row] = row if row < model.rows and row not in taken else -1
        for token in () if stored[row] == row and is_start else tokens:
            number = known.get(token, -1)
            if 0 <= number < model.rows:
                stored[row] = number
    return stored
