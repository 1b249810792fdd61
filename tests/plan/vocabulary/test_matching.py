"""Row maps (svc_dist.plan.vocabulary.row_maps) by matching of tokens, against a reference of dictionaries."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from svc_dist.plan.vocabulary.matching import FixedRow, Tokens, common_rows, row_maps
from svc_dist.plan.vocabulary.row_maps import Row, RowMaps


def vocabulary(draw: random.Random, words: int, extra: int) -> Tokens:
    """Some common words, some words of its own, in a shuffled order here and there, and some padding rows."""
    chosen = [f"w{n}" for n in range(words) if draw.random() < 0.9]
    chosen += [f"x{draw.randrange(12)}" for _ in range(extra)]
    tokens = list(dict.fromkeys(chosen))
    if draw.random() < 0.5:
        start = draw.randrange(len(tokens))
        tail = tokens[start:]
        draw.shuffle(tail)
        tokens[start:] = tail
    return Tokens({token: number for number, token in enumerate(tokens)}, len(tokens) + draw.randrange(-2, 4))


def of_row(maps: RowMaps, source: int, first: int, last: int) -> list[tuple[Row, ...]]:
    """What each row is made of."""
    rows: list[tuple[Row, ...]] = []
    position = first
    for piece in maps.pieces(source, first, last):
        assert piece.first == position
        rows += [tuple((n, row + at) for n, row in piece.of) for at in range(piece.length)]
        position += piece.length
    assert position == last
    return rows


def reference(
    result: Mapping[str, int], rows: int, models: list[Tokens], prefer_base: bool
) -> list[list[tuple[Row, ...]]]:
    """Each model's rows, token by token."""
    expected: list[list[tuple[Row, ...]]] = [[() for _ in range(rows)] for _ in models]
    for token, row in result.items():
        if row >= rows:
            continue
        holders: list[Row] = []
        for number, model in enumerate(models):
            assert model.numbers is not None
            if model.numbers.get(token, model.rows) < model.rows:
                holders.append((number, model.numbers[token]))
        default = [holders[0]] if holders and holders[0][0] == 0 and prefer_base else holders
        for number in range(len(models)):
            own = [holder for holder in holders if holder[0] == number]
            expected[number][row] = tuple(own or default)
    return expected


@pytest.mark.parametrize("seed", range(40))
def test_every_row_is_that_of_its_token(seed: int) -> None:
    draw = random.Random(seed)
    models = [vocabulary(draw, 40, draw.randrange(6)) for _ in range(draw.randrange(2, 5))]
    result: dict[str, int] = {}
    for model in models:
        for token in model.numbers or {}:
            result.setdefault(token, len(result))
    prefer_base, rows = draw.random() < 0.7, len(result)
    maps = row_maps(result, rows, None, models, prefer_base=prefer_base)
    expected = reference(result, rows, models, prefer_base)
    used = {(n, row + at) for piece in maps.used(0, rows) for n, row in piece.of for at in range(piece.length)}
    for number in range(len(models)):
        assert of_row(maps, number, 0, rows) == expected[number]
        assert {row for of in expected[number] for row in of} <= used
        first = draw.randrange(rows)
        last = draw.randrange(first, rows + 1)
        assert of_row(maps, number, first, last) == expected[number][first:last]
    assert maps.runs <= 4 * rows


def test_equal_vocabularies_are_one_run_each() -> None:
    tokens = Tokens({f"w{number}": number for number in range(1000)}, 1000)
    maps = row_maps(tokens.numbers or {}, 1000, 0, [tokens, tokens, None, Tokens(None, 1000)])
    assert maps.own == (((0, 0, 1000),), ((0, 0, 1000),), (), ((0, 0, 1000),))
    assert not maps.filled
    assert maps.identity(0) == 1000
    assert common_rows(maps) == 1000


def test_fixed_rows_are_in_models_without_the_token_or_in_all() -> None:
    base, one = Tokens({"a": 0, "b": 1}, 2), Tokens({"a": 0, "c": 1}, 2)
    fixed = {1: FixedRow(((1, 0),), force=False), 2: FixedRow(((0, 1),), force=True)}
    maps = row_maps({"a": 0, "b": 1, "c": 2, "d": 3}, 4, 0, [base, one], fixed=fixed)
    assert of_row(maps, 0, 0, 4) == [((0, 0),), ((0, 1),), ((0, 1),), ()]
    assert of_row(maps, 1, 0, 4) == [((1, 0),), ((1, 0),), ((0, 1),), ()]
    assert common_rows(maps) == 1


def test_rows_of_no_token_are_matched_by_their_number() -> None:
    tokens = {"a": 0, "b": 3}
    maps = row_maps(tokens, 4, 0, [Tokens(tokens, 4), Tokens({"a": 0, "b": 1}, 4)])
    assert of_row(maps, 1, 0, 4) == [((1, 0),), ((0, 1),), ((1, 2),), ((1, 1),)]


def test_two_names_of_one_number_are_one_row_and_the_added_one_counts() -> None:
    names = {"[control_1]": 0, "a": 1, "<|im_start|>": 0}
    maps = row_maps(names, 2, 0, [Tokens(names, 2), Tokens({"<|im_start|>": 1, "a": 0, "[control_1]": 2}, 3)])
    assert of_row(maps, 1, 0, 2) == [((1, 1),), ((1, 0),)]


def test_padding_is_the_mean_of_all_rows() -> None:
    tokens = Tokens({"a": 0, "b": 1}, 2)
    maps = row_maps(tokens.numbers or {}, 2, 0, [tokens, tokens], padding=2)
    (piece,) = maps.pieces(0, 2, 4)
    assert (piece.first, piece.length, piece.of, piece.padding) == (2, 2, (), True)
    assert [piece.length for piece in maps.used(3, 4)] == [2, 2]
