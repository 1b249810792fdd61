"""Which rule decides about a name, without trying every pattern: recipes may have thousands."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from fnmatch import translate

from svc_dist.errors import RecipeError
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.recipe.rules.keys import RuleEntry
from svc_dist.recipe.rules.kinds import Kind, kinds_of
from svc_dist.tensor_names import EMBEDDING_PATTERNS, matches, parse_name

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
    return _first_matches(
        tuple(names), tuple((tuple(rule.match), rule.layer_range, tuple(rule.kind or ())) for rule in rules)
    )


def selected(names: Sequence[str], rule: RuleEntry) -> list[str]:
    """The names that a rule is about, whatever rules stand before it."""
    kinds = kinds_of(names) if rule.kind else {}
    return [
        name for name in names
        if matches(name, rule.match) and (not rule.kind or kinds.get(name) in rule.kind)
        and (rule.layer_range is None or _within(parse_name(name).layer, rule.layer_range))
    ]  # fmt: skip


#: What a rule selects by: patterns, layers, kinds.
_Selection = tuple[tuple[str, ...], tuple[int, int] | None, tuple[Kind, ...]]


@functools.lru_cache(maxsize=2)  # several results, and warnings, ask for the same
def _first_matches(
    names: tuple[str, ...], rules: tuple[_Selection, ...]
) -> tuple[dict[str, int], set[tuple[int, int]]]:
    places = [(rule, number) for rule, (patterns, _, _) in enumerate(rules) for number in range(len(patterns))]
    patterns = Patterns([rules[rule][0][number] for rule, number in places])
    ranges, of_kinds = [layers for _, layers, _ in rules], [kinds for _, _, kinds in rules]
    ranged = any(layers is not None for layers in ranges)
    kinds = kinds_of(names) if any(of_kinds) else None
    first: dict[str, int] = {}
    used: set[tuple[int, int]] = set()
    for name in names:
        matching = [places[number] for number in patterns.matching(name)]
        if ranged and matching:
            layer = parse_name(name).layer
            matching = [place for place in matching if _within(layer, ranges[place[0]])]
        if kinds is not None and matching:
            kind = kinds.get(name)
            matching = [place for place in matching if not of_kinds[place[0]] or kind in of_kinds[place[0]]]
        if matching:
            first[name] = min(matching)[0]
            used.update(matching)
    return first, used


def _within(layer: int | None, layers: tuple[int, int] | None) -> bool:
    return layers is None or (layer is not None and layers[0] <= layer < layers[1])


def require_matches(recipe: ResolvedRecipe, names: Sequence[str], rule_of: dict[str, int]) -> None:
    """Raise RecipeError for a rule that decides about no tensor, or an embedding pattern that matches none."""
    used = set(rule_of.values())
    for index, rule in enumerate(recipe.rules):
        if index in used or rule.optional:
            continue
        where = recipe.origin.at("rules", index, "match")
        earlier = [rule_of[name] for name in selected(names, rule)]
        if earlier:
            raise RecipeError(
                f"{where}: every tensor that this rule matches is taken by rules[{min(earlier)}] before it",
                "put the narrower rule first",
                code="rule-shadowed",
            )
        if rule.kind and any(matches(name, rule.match) for name in names):
            raise RecipeError(
                f"{recipe.origin.at('rules', index, 'kind')}: no model has {' or '.join(rule.kind)}"
                + (" under these names and in these layers" if rule.match != ["*"] or rule.layer_range else ""),
                "docs/mixtures.md lists the names by which svc_dist tells a kind; `match` takes patterns of others",
                code="rule-matches-nothing",
            )
        raise _matches_nothing(where, names)
    for index, pattern in enumerate(recipe.embedding_patterns):  # a tensor that it missed would go to spectral steps
        if pattern not in EMBEDDING_PATTERNS and not any(matches(name, [pattern]) for name in names):
            raise _matches_nothing(recipe.origin.at("embedding_patterns", index), names)


def _matches_nothing(where: str, names: Sequence[str]) -> RecipeError:
    return RecipeError(
        f"{where}: matches no tensor of any model",
        f"patterns match whole names, like {names[0]!r}; begin one with * to allow any prefix" if names else None,
        code="rule-matches-nothing",
    )
