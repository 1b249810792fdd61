"""Tensors with a row for each token: which of their rows are merged, and that a row is the same token in all models."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from svc_dist.checkpoint.adapters.adapter import Expert
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.checkpoint.tokenizer import has_tokenizer
from svc_dist.checkpoint.vocabulary import (
    Clash,
    IncomparableError,
    Vocabulary,
    first_clash,
    missing_token,
    read_vocabulary,
    tokens_of,
)
from svc_dist.errors import DamagedInputError
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import Storage
from svc_dist.storage.open import open_storage
from svc_dist.tensor_names import VOCABULARY_PATTERNS, matches, parse_name

_TOGETHER = 8
_LANGUAGE = ("text_config", "llm_config")


def is_vocabulary(spec: TensorSpec, sizes: Sequence[int]) -> bool:
    """Whether a tensor has a row for each token, by its name or, outside of layers, by the config's ``vocab_size``.

    ``sizes``: the ``vocabulary_sizes`` of the base.
    """
    if matches(spec.name, VOCABULARY_PATTERNS):
        return True
    if not 1 <= len(spec.shape) <= 2 or spec.shape[0] not in sizes:
        return False
    return parse_name(spec.name).layer is None


def vocabulary_sizes(model: Checkpoint) -> list[int]:
    """The ``vocab_size`` of a model's config, that of its language model first."""
    config = model.config or {}
    sections = (*map(config.get, _LANGUAGE), config)
    sizes = [section.get("vocab_size") for section in sections if isinstance(section, Mapping)]
    return [size for size in sizes if isinstance(size, int)]


def with_vocab_size(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """A config with another ``vocab_size``: its language model's, and that of the whole where it says the same."""
    section = next((key for key in _LANGUAGE if isinstance(config.get(key), Mapping)), None)
    inner = config if section is None else config[section]
    changed = dict(config) if section is None else {**config, section: {**inner, "vocab_size": rows}}
    if section is None or config.get("vocab_size") == inner.get("vocab_size") is not None:
        changed["vocab_size"] = rows
    return changed


@dataclass
class Vocabularies:
    """The vocabularies of the base and of the experts, read when a tensor's rows are first asked for.

    ``other``: the location of one more tokenizer, after those of the models, whose model is not merged.
    """

    base: str
    experts: Sequence[Expert]
    access: Access = DEFAULT_ACCESS
    other: str | None = None
    #: What was decided about the rows of tensors, by sizes: for all results alike.
    decided: dict[tuple[object, ...], object] = field(default_factory=dict, repr=False)
    _clashes: dict[tuple[int, int, int], Clash | None] = field(default_factory=dict, repr=False)

    @property
    def models(self) -> list[str]:
        return [self.base, *(expert.whole.location for expert in self.experts), *self._others]

    @property
    def _others(self) -> list[str]:
        return [] if self.other is None else [self.other]

    @cached_property
    def read(self) -> list[Vocabulary | None]:
        """The vocabulary of each model, None where it has none. An adapter's comes before that of its model."""
        known: dict[str, Mapping[str, int]] = {}

        def folder(locations: Sequence[str]) -> Storage | None:
            found = (open_storage(location, self.access) for location in locations)
            return next((one for one in found if has_tokenizer(one.names())), None)

        def vocabulary(of: Storage | None) -> Vocabulary | None:
            try:
                return None if of is None else read_vocabulary(of, known)
            except DamagedInputError:
                if compared or of is None:
                    raise
                return Vocabulary(of.location, None)  # no other is compared with it

        both = [[one.location for one in (each.adapter, each.model) if one is not None] for each in self.experts]
        with ThreadPoolExecutor(_TOGETHER) as pool:
            folders = list(pool.map(folder, [[self.base], *both, *([one] for one in self._others)]))
            compared = sum(one is not None for one in folders) > 1
            return list(pool.map(vocabulary, folders))

    def training(self, name: str) -> list[int]:
        """The experts that have a tensor of their own of this name: of the others, a row is the base's, whatever its
        token."""
        return [
            number
            for number, expert in enumerate(self.experts, 1)
            if expert.model is not None or expert.saved(name) is not None or name in expert.factors
        ]

    def storing(self, name: str) -> list[int]:
        """The experts that store a tensor of this name whole: those that can have rows for tokens of their own."""
        return [
            number
            for number, expert in enumerate(self.experts, 1)
            if expert.model is not None or expert.saved(name) is not None
        ]

    def clash(self, one: int, other: int, rows: int) -> Clash | None:
        """The smallest number below ``rows`` that two models use differently; None where nothing is known of one.

        Raises IncomparableError.
        """
        key = (one, other, rows)
        if key not in self._clashes:
            first, second = self.read[one], self.read[other]
            both = first is not None and second is not None
            self._clashes[key] = first_clash(first, second, rows) if both and first and second else None
        return self._clashes[key]

    def clashes(self, name: str, rows: int, source: int = 0) -> Iterator[Clash]:
        """The first clash of each model with the one whose tokenizer is the ``source``, or with the first that has
        one. Vocabularies that cannot be compared are skipped; ``incomparable`` lists them."""
        models = [
            number for number in dict.fromkeys((source, 0, *self.training(name))) if self.read[number] is not None
        ]
        for other in models[1:]:
            try:
                clash = self.clash(models[0], other, rows)
            except IncomparableError:
                continue
            if clash is not None:
                yield clash

    def incomparable(self, names: Sequence[str]) -> list[str]:
        """The models whose vocabularies cannot be compared with the first one."""
        numbers = sorted({number for name in names for number in (0, *self.training(name))})
        models = [number for number in numbers if self.read[number] is not None]
        found = []
        for other in models[1:]:
            try:
                self.clash(models[0], other, 1)
            except IncomparableError:
                found.append(self.models[other])
        return [self.models[models[0]], *found] if found else []

    def beyond(self, source: int, name: str, rows: int, merged: int) -> tuple[str, int] | None:
        """A token of model ``source``, and its number, whose own row of a tensor is not in the result.

        The result has ``rows`` rows; after the first ``merged`` they are the base's.
        """
        vocabulary = self.read[source]
        if vocabulary is None or not source:
            return None
        own = sys.maxsize if source > len(self.experts) else self.experts[source - 1].whole.tensors[name].shape[0]
        words = vocabulary.words if vocabulary.words is not None else vocabulary.added
        first = min(((n, token) for token, n in words.items() if rows <= n < own), default=None)
        if first is None and merged < rows:
            with contextlib.suppress(IncomparableError):
                if (clash := self.clash(source, 0, rows)) is not None:
                    return clash.token, clash.number
        return None if first is None else (first[1], first[0])

    def with_all_tokens(self, numbers: Sequence[int], rows: Mapping[int, int]) -> int | None:
        """The first of these models whose vocabulary holds the tokens of all at their numbers; None for none.

        ``rows``: how many rows each has; tokens beyond them count for nothing. Raises IncomparableError.
        """
        last = {
            one: max((n for n in tokens_of(self.known(one)).values() if n < rows[one]), default=-1) for one in numbers
        }
        for one in numbers:
            if all(
                last[other] < rows[one] and missing_token(self.known(one), self.known(other), rows[other]) is None
                for other in numbers
            ):
                return one
        return None

    def known(self, number: int) -> Vocabulary:
        """The vocabulary of a model that has one."""
        found = self.read[number]
        assert found is not None
        return found

    def is_the_base_s(self, clash: Clash) -> bool:
        """Whether the number of a clash is that of a token of the base."""
        return self.read[0] is not None and (clash.location == self.base or clash.instead is not None)
