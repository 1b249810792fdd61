"""Tensors with a row for each token: which of their rows are merged, and that a row is the same token in all models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

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
from svc_dist.errors import DamagedInputError, PlanError
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.recipe.schema import Vocab
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import Storage
from svc_dist.storage.open import open_storage
from svc_dist.tensor_names import VOCABULARY_PATTERNS, matches, parse_name

_TOGETHER = 8
_SHOWN = 4  # clashes in a message
_BUILD_UNION = (
    "svc_dist does not renumber tokens: give all models one tokenizer first (tokenizer.add_tokens and "
    "model.resize_token_embeddings of transformers), or write `vocab: common` (docs/vocabulary.md)"
)


def is_vocabulary(spec: TensorSpec, base: Checkpoint) -> bool:
    """Whether a tensor has a row for each token, by its name or, outside of layers, by the config's ``vocab_size``."""
    if matches(spec.name, VOCABULARY_PATTERNS):
        return True
    if not 1 <= len(spec.shape) <= 2 or parse_name(spec.name).layer is not None:
        return False
    return spec.shape[0] in vocabulary_sizes(base)


def vocabulary_sizes(model: Checkpoint) -> list[int]:
    """The ``vocab_size`` of a model's config, that of its language model first."""
    config = model.config or {}
    sections = (config.get("text_config"), config.get("llm_config"), config)
    sizes = [section.get("vocab_size") for section in sections if isinstance(section, Mapping)]
    return [size for size in sizes if isinstance(size, int)]


@dataclass
class Vocabularies:
    """The vocabularies of the base and of the experts, read when a tensor's rows are first asked for."""

    base: str
    experts: Sequence[Expert]
    access: Access = DEFAULT_ACCESS
    _clashes: dict[tuple[int, int, int], Clash | None] = field(default_factory=dict, repr=False)

    @property
    def models(self) -> list[str]:
        return [self.base, *(expert.whole.location for expert in self.experts)]

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
            folders = list(pool.map(folder, [[self.base], *both]))
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
        own = self.experts[source - 1].whole.tensors[name].shape[0]
        words = vocabulary.words if vocabulary.words is not None else vocabulary.added
        first = min(((n, token) for token, n in words.items() if rows <= n < own), default=None)
        if first is None and merged < rows:
            with contextlib.suppress(IncomparableError):
                if (clash := self.clash(source, 0, rows)) is not None:
                    return clash.token, clash.number
        return None if first is None else (first[1], first[0])

    def union(self, name: str, rows: Sequence[int]) -> int:
        """The model whose vocabulary holds the tokens of all models at their numbers. Raises PlanError for none.

        ``rows``: how many rows each model has; tokens beyond them count for nothing.
        """
        numbers = [number for number in (0, *self.training(name)) if self.read[number] is not None]
        last = {
            one: max((n for n in tokens_of(self._known(one)).values() if n < rows[one]), default=-1) for one in numbers
        }
        lost: list[tuple[int, int, Clash]] = []
        for one in numbers:
            try:
                missing = [missing_token(self._known(one), self._known(other), rows[other]) for other in numbers]
            except IncomparableError:
                continue
            if any(rows[one] <= last[other] for other in numbers):
                continue
            first = [clash for clash in missing if clash is not None]
            if not first:
                return one
            lost.append((len(first), one, first[0]))
        if not numbers or not lost:
            raise PlanError(
                "vocab: union: no model has a tokenizer that can be compared with the others'", _BUILD_UNION
            )
        raise PlanError(f"vocab: union: no model's tokenizer has the tokens of all: {min(lost)[2]}", _BUILD_UNION)

    def _known(self, number: int) -> Vocabulary:
        found = self.read[number]
        assert found is not None
        return found

    def is_the_base_s(self, clash: Clash) -> bool:
        """Whether the number of a clash is that of a token of the base."""
        return self.read[0] is not None and (clash.location == self.base or clash.instead is not None)


def vocab_choice(recipe: ResolvedRecipe, rule: int | None, spec: TensorSpec | None, base: Checkpoint) -> Vocab:
    """The recipe's choice for a tensor: that of its rule, else the recipe's for tensors with a row for each token."""
    own = None if rule is None else recipe.rules[rule].vocab
    chosen = recipe.tokenizer
    if own is not None or spec is None or chosen.vocab == "error" or (chosen.rows_follow and chosen.source):
        return own or "error"
    return chosen.vocab if is_vocabulary(spec, base) else "error"


@dataclass(frozen=True)
class Rows:
    """What becomes of the rows of a tensor: of ``shape``, the first ``merged`` rows are merged (None: all), the others
    are those of model ``rest``."""

    shape: tuple[int, ...]
    merged: int | None = None
    rest: int = 0

    def reason(self, vocab: Vocab, location: str) -> str:
        """What a disposition adds to its reason."""
        whose = "the base's" if self.rest == 0 else f"those of {location}"
        return f", in its first {self.merged:,} of {self.shape[0]:,} rows; the others are {whose} (vocab: {vocab})"


def rows_of(
    spec: TensorSpec, base: Checkpoint, experts: Sequence[Checkpoint], choice: Vocab, vocabularies: Vocabularies | None
) -> Rows:
    """What becomes of the rows of the base's tensor by the recipe's choice.

    Raises PlanError where a token of the base is another one in an expert (``base``), hardly any row is common, or no
    model has all tokens (``union``).
    """
    if choice == "error" or not spec.shape:
        return Rows(spec.shape)
    rows = min(model.tensors[spec.name].shape[0] for model in (base, *experts))
    rest = 0
    if choice == "union" and vocabularies is not None and is_vocabulary(spec, base):
        rest = vocabularies.union(spec.name, [model.tensors[spec.name].shape[0] for model in (base, *experts)])
    shape = (base, *experts)[rest].tensors[spec.name].shape
    whole = shape[0]
    if vocabularies is None or not is_vocabulary(spec, base):
        return Rows(shape, None if rows == whole else rows)
    clashes = list(vocabularies.clashes(spec.name, rows))
    agreed = min([rows, *(clash.number for clash in clashes)])
    lost = [clash for clash in clashes if choice == "base" and vocabularies.is_the_base_s(clash)]
    if lost or agreed * 2 < rows:
        others = "; or `vocab: common`, which merges the rows before such a token" if agreed * 2 >= rows else ""
        raise PlanError(
            "\n".join(map(str, (lost or clashes)[:_SHOWN])) + ": embeddings would have to be rearranged",
            "rearrange the embeddings of one model first, or keep embedding and head of one model, unmerged "
            f"(docs/vocabulary.md){others}",
        )
    return Rows(shape) if agreed == whole else Rows(shape, agreed, rest)


def refuse_clashes(clashes: Sequence[Clash], where: str, asked: bool) -> None:
    """Raise PlanError for rows that are different tokens in different models.

    ``asked``: the recipe names a tokenizer, at ``where``.
    """
    if not clashes:
        return
    lines = [str(clash) for clash in clashes[:_SHOWN]]
    if len(clashes) > _SHOWN:
        lines.append(f"and {len(clashes) - _SHOWN} more models")
    if asked:
        lines[-1] += ": embeddings would have to be rearranged"
        raise PlanError(
            f"{where}: " + "\n".join(lines),
            "rearrange the embeddings of one model first, or keep embedding and head of one model, unmerged "
            "(docs/vocabulary.md)",
        )
    raise PlanError(
        "the merge would add up rows of different tokens:\n  " + "\n  ".join(lines),
        "`vocab: common` merges the rows before the first such token, `vocab: base` those of the base's tokens if all "
        "experts have them; the other rows stay the base's. Or keep embedding and head of one model, unmerged "
        "(docs/vocabulary.md)",
    )
