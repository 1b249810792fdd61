"""What becomes of the rows of a tensor: which are merged, by number or by token, and where the others come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from svc_dist.checkpoint.adapters.config import MERGE_FIRST
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.checkpoint.vocabulary import Clash, tokens_of
from svc_dist.errors import PlanError, RecipeError
from svc_dist.plan.vocabulary.matching import FixedRow, Tokens, common_rows, row_maps
from svc_dist.plan.vocabulary.result import ResultVocabulary, result_vocabulary
from svc_dist.plan.vocabulary.row_maps import RowMaps
from svc_dist.plan.vocabulary.vocabularies import Vocabularies, is_vocabulary, vocabulary_sizes
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.recipe.rules.keys import Vocab
from svc_dist.recipe.tokenizer import TokenChoice, TokenizerChoice

_SHOWN = 4  # clashes in a message
_OTHERS = (
    "keep embedding and head of one model, unmerged (docs/vocabulary.md), or name an expert whose tokens are the base's"
)


def vocab_choice(recipe: ResolvedRecipe, rule: int | None, spec: TensorSpec | None, base: Checkpoint) -> Vocab:
    """The recipe's choice for a tensor: that of its rule, else the recipe's for tensors with a row for each token."""
    own = None if rule is None else recipe.rules[rule].vocab
    if own is not None or spec is None or recipe.tokenizer.vocab == "error":
        return own or "error"
    return recipe.tokenizer.vocab if is_vocabulary(spec, vocabulary_sizes(base)) else "error"


@dataclass(frozen=True)
class Rows:
    """What becomes of the rows of a tensor: of ``shape``, the first ``merged`` rows are merged (None: all), the others
    are those of model ``rest``. ``maps``: by token, of the ``vocabulary``; None where a row has one number everywhere.
    """

    shape: tuple[int, ...]
    merged: int | None = None
    rest: int = 0
    maps: RowMaps | None = None
    vocabulary: ResultVocabulary | None = field(default=None, repr=False)

    def reason(self, vocab: Vocab, locations: Sequence[str]) -> str:
        """What a disposition adds to its reason."""
        if self.merged is None and self.maps is None:
            return ""
        whose = "the base's" if self.rest == 0 else f"those of {locations[self.rest]}"
        if self.maps is None:
            return f", in its first {self.merged:,} of {self.shape[0]:,} rows; the others are {whose} (vocab: {vocab})"
        parts = _origins(self.maps, locations)
        if self.merged is not None:
            parts.append(f"{self.shape[0] - self.merged:,} of no token, unmerged, {whose}")
        return f", {self.shape[0]:,} rows by token (vocab: {vocab}): {', '.join(parts)}"


@dataclass(frozen=True)
class RowChoices:
    """Decides about the rows of the tensors of one merge."""

    recipe: ResolvedRecipe
    base: Checkpoint
    experts: Sequence[Checkpoint]
    vocabularies: Vocabularies | None

    def of(self, spec: TensorSpec, choice: Vocab) -> Rows:
        """What becomes of the rows of the base's tensor.

        Raises PlanError where hardly any row is the same token in all models, or a union of them is no tokenizer.
        """
        if choice == "error" or not spec.shape:
            return Rows(spec.shape)
        vocabularies = self.vocabularies
        by_token = vocabularies is not None and is_vocabulary(spec, vocabulary_sizes(self.base))
        if not by_token or vocabularies is None or choice == "common":
            return self._common(spec, choice, vocabularies if by_token else None)
        models = (self.base, *self.experts)
        stored = [0, *vocabularies.storing(spec.name)]
        rows = {number: models[number].tensors[spec.name].shape[0] for number in stored}
        key = (choice, spec.shape[0], *rows.items())
        decided = vocabularies.decided.get(key)
        if not isinstance(decided, Rows):
            decided = vocabularies.decided[key] = _ByToken(self, vocabularies, spec.name, rows, choice).rows()
        if decided.maps is not None:
            _require_unmoved_factors(spec.name, decided.maps, rows, vocabularies)
        return replace(decided, shape=(decided.shape[0], *spec.shape[1:]))

    def _common(self, spec: TensorSpec, choice: Vocab, vocabularies: Vocabularies | None) -> Rows:
        """The rows before the first number that two models use differently."""
        rows = min(model.tensors[spec.name].shape[0] for model in (self.base, *self.experts))
        clashes = [] if vocabularies is None else list(vocabularies.clashes(spec.name, rows))
        agreed = min([rows, *(clash.number for clash in clashes)])
        if agreed * 2 < rows:
            raise PlanError(
                "\n".join(map(str, clashes[:_SHOWN])) + ": hardly any row is common", _OTHERS, code="vocab-differs"
            )
        return Rows(spec.shape) if agreed == spec.shape[0] else Rows(spec.shape, agreed)


@dataclass
class _ByToken:
    """The rows of one tensor, of which each model in ``sizes`` stores so many, matched by token."""

    of: RowChoices
    vocabularies: Vocabularies
    name: str
    sizes: Mapping[int, int]
    vocab: Vocab

    def rows(self) -> Rows:
        choice = self.of.recipe.tokenizer
        named = choice.source if choice.rows_follow or self.vocab == "union" else 0
        if named is not None and self.vocabularies.read[named] is None:
            if choice.source is not None:
                location = self.vocabularies.models[named]
                raise RecipeError(
                    f"{choice.where}: {location} has no tokenizer",
                    "name a model that has one",
                    code="tokenizer-missing",
                )
            named = None
        result = result_vocabulary(self.vocabularies, self.sizes, self.vocab, choice, named)
        whole = self.sizes[0]
        if result is None:
            rows = min(self.sizes.values())
            return Rows((whole,), None if rows == whole else rows)
        start = result.start if result.start in self.sizes else 0
        stored = self.sizes[start]
        plain = self._by_number(result, start, choice)
        if plain is not None:
            return plain
        last = max([stored, *(one.id + 1 for one in result.added)])
        if result.start > len(self.of.experts):  # of no model here: it may have tokens that none has
            last = result.rows
        tokens = min(result.rows, last) if choice.multiple is None else result.rows
        fixed = {result.tokens[one.token]: self._fixed(one) for one in choice.tokens if not one.default}
        fixed = {row: one for row, one in fixed.items() if row < tokens}
        padding = 0 if choice.multiple is None else -tokens % choice.multiple
        maps = row_maps(
            result.tokens, tokens, start if start == result.start else None, self._models(),
            prefer_base=self.of.recipe.has_base_model, fixed=fixed, padding=padding,
        )  # fmt: skip
        self._require_common(maps, result)
        rows = max(tokens, stored) if choice.multiple is None else tokens + padding
        return Rows((rows,), tokens if tokens + padding < rows else None, start, maps, result)

    def _by_number(self, result: ResultVocabulary, start: int, choice: TokenizerChoice) -> Rows | None:
        """The rows where no model has a token at another number than the result: those after the tokens may differ."""
        if result.added or choice.multiple is not None or any(not one.default for one in choice.tokens):
            return None
        if result.start > len(self.of.experts) and result.rows > self.sizes[start]:
            return None
        whole, least = self.sizes[start], min(self.sizes.values())
        clashes = list(self.vocabularies.clashes(self.name, least, result.start))
        agreed = min([least, *(clash.number for clash in clashes)])
        if agreed < min(result.rows, whole):
            return None
        return Rows((whole,), None if agreed == whole else agreed, start)

    def _models(self) -> list[Tokens | None]:
        """The tokens of every model: those of one without a tokenizer are the base's."""
        models: list[Tokens | None] = []
        for number in range(len(self.of.experts) + 1):
            known = self.vocabularies.read[number] or self.vocabularies.read[0]
            if number in self.sizes:
                models.append(Tokens(None if known is None else tokens_of(known), self.sizes[number]))
            else:
                models.append(None)
        return models

    def _fixed(self, one: TokenChoice) -> FixedRow:
        """The row that the recipe gives a token. Raises RecipeError for one that the model does not have."""
        if one.model is None:
            return FixedRow((), one.force)
        number = one.model if one.model in self.sizes else 0
        location, rows = self.vocabularies.models[one.model], self.sizes[number]
        known = self.vocabularies.read[one.model] or self.vocabularies.read[0]
        row = one.of if isinstance(one.of, int) else None if known is None else tokens_of(known).get(one.of)
        if row is None or row >= rows:
            what = f"the token {one.of!r}" if isinstance(one.of, str) else f"row {one.of:,} (it has {rows:,})"
            raise RecipeError(
                f"{one.where}: {location} does not have {what}",
                "name a token that it has, or its model",
                code="token-row-missing",
            )
        return FixedRow(((number, row),), one.force)

    def _require_common(self, maps: RowMaps, result: ResultVocabulary) -> None:
        """Raise PlanError where hardly any token of the result is in all models: these are other tokenizers."""
        if self.vocab == "union" or common_rows(maps) * 2 >= maps.rows - maps.padding:
            return
        clashes = list(self.vocabularies.clashes(self.name, min(self.sizes.values()), result.start))
        shown: Sequence[Clash] = clashes[:_SHOWN]
        raise PlanError(
            "\n".join(map(str, shown)) + ": hardly any token of the result is in all models",
            _OTHERS,
            code="vocab-differs",
        )


def _require_unmoved_factors(name: str, maps: RowMaps, sizes: Mapping[int, int], vocabularies: Vocabularies) -> None:
    """Raise PlanError where an adapter adds to rows that lie elsewhere in the result."""
    donors = {source for _, _, of in maps.filled for source, _ in of}
    for number, expert in enumerate(vocabularies.experts, 1):
        rows = max((one.rows for one in expert.factors.get(name, ())), default=0)
        unmoved = maps.identity(number if number in sizes else 0)
        if unmoved < min(rows, maps.rows) or (rows and number in donors):
            raise PlanError(
                f"{name}: {vocabularies.models[number]} is LoRA on this tensor, whose rows have other numbers in the "
                "result",
                MERGE_FIRST,
                code="lora-rows-move",
            )


def _origins(maps: RowMaps, locations: Sequence[str]) -> list[str]:
    """How many rows come from where."""
    counts: dict[str, int] = {}
    filled = 0
    for _, count, of in maps.filled:
        filled += count
        sources = list(dict.fromkeys(source for source, _ in of))
        whose = "the base" if sources == [0] else locations[sources[0]]
        key = f"from {whose}" if len(of) == 1 else "the mean of the models that have them"
        counts[key] = counts.get(key, 0) + count
    every = common_rows(maps)
    zero = maps.rows - maps.padding - every - filled
    parts = [f"{every:,} that all models have", *(f"{count:,} {what}" for what, count in counts.items())]
    return parts + ([f"{zero:,} zero"] if zero else []) + ([f"{maps.padding:,} padding"] if maps.padding else [])


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
        lines[-1] += ": the tokenizer does not go with the merged rows"
        raise PlanError(
            f"{where}: " + "\n".join(lines),
            "take out `vocab`, so that rows are matched by its tokens",
            code="vocab-differs",
        )
    raise PlanError(
        "the merge would add up rows of different tokens:\n  " + "\n  ".join(lines),
        "`vocab: union` gives the result the tokens of all models, `vocab: base` those of the base, and both match "
        "rows by token; `vocab: common` merges the rows before the first such token. Or keep embedding and head of "
        "one model, unmerged (docs/vocabulary.md)",
        code="vocab-differs",
    )
