"""Which of many name patterns match a name, without trying each of them: recipes may have thousands."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from fnmatch import translate

from svc_dist.recipe.schema import RuleEntry
from svc_dist.tensor_names import parse_name

_WILD = re.compile(r"[*?]|\[!?\]?[^\]]*\]?")


class Patterns:
    """Name patterns as in ``tensor_names.matches``, found by the longest text that each of them spells out."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns
        self._compiled: dict[int, re.Pattern[str]] = {}
        self._whole: dict[str, list[int]] = {}
        self._begins: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}
        self._holds: dict[str, list[int]] = {}
        for number, pattern in enumerate(patterns):
            texts = _WILD.split(pattern)
            longest = max(range(len(texts)), key=lambda place: len(texts[place]))
            if len(texts) == 1:
                bucket = self._whole
            elif longest == 0:
                bucket = self._begins
            else:
                bucket = self._ends if longest == len(texts) - 1 else self._holds
            bucket.setdefault(texts[longest], []).append(number)
        self._lengths = [sorted({len(text) for text in bucket}) for bucket in (self._begins, self._ends, self._holds)]

    def matching(self, name: str) -> Iterator[int]:
        """The numbers of the patterns that match a whole name, in no order."""
        yield from self._whole.get(name, ())
        for number in self._candidates(name):
            compiled = self._compiled.get(number)
            if compiled is None:
                compiled = self._compiled[number] = re.compile(translate(self._patterns[number]))
            if compiled.match(name) is not None:
                yield number

    def _candidates(self, name: str) -> Iterator[int]:
        begins, ends, holds = ([length for length in lengths if length <= len(name)] for lengths in self._lengths)
        for length in begins:
            yield from self._begins.get(name[:length], ())
        for length in ends:
            yield from self._ends.get(name[len(name) - length :], ())
        for length in holds:
            for text in {name[start : start + length] for start in range(len(name) - length + 1)}:
                yield from self._holds.get(text, ())


def first_matches(names: Sequence[str], rules: Sequence[RuleEntry]) -> tuple[dict[str, int], set[tuple[int, int]]]:
    """For each name the first of the rules that matches it, if one does; and the patterns that match some name, as the
    number of the rule and of the pattern in it."""
    return _first_matches(tuple(names), tuple((tuple(rule.match), rule.layer_range) for rule in rules))


@functools.lru_cache(maxsize=2)  # several results, and warnings, ask for the same
def _first_matches(
    names: tuple[str, ...], rules: tuple[tuple[tuple[str, ...], tuple[int, int] | None], ...]
) -> tuple[dict[str, int], set[tuple[int, int]]]:
    places = [(rule, number) for rule, (patterns, _) in enumerate(rules) for number in range(len(patterns))]
    patterns = Patterns([rules[rule][0][number] for rule, number in places])
    ranges = [layers for _, layers in rules]
    ranged = any(layers is not None for layers in ranges)
    first: dict[str, int] = {}
    used: set[tuple[int, int]] = set()
    for name in names:
        matching = [places[number] for number in patterns.matching(name)]
        if ranged and matching:
            layer = parse_name(name).layer
            matching = [place for place in matching if _within(layer, ranges[place[0]])]
        if matching:
            first[name] = min(matching)[0]
            used.update(matching)
    return first, used


def _within(layer: int | None, layers: tuple[int, int] | None) -> bool:
    return layers is None or (layer is not None and layers[0] <= layer < layers[1])
