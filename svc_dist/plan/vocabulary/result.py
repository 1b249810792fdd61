"""The vocabulary of the results: the tokens of one model's tokenizer, and those that a union or the recipe adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from svc_dist.checkpoint.vocabulary import IncomparableError, tokens_of
from svc_dist.errors import PlanError
from svc_dist.plan.vocabulary.added_tokens import AddedToken, takes_words, token_flags
from svc_dist.plan.vocabulary.vocabularies import Vocabularies
from svc_dist.recipe.rules.keys import Vocab
from svc_dist.recipe.tokenizer import TokenizerChoice
from svc_dist.sizes import counted
from svc_dist.storage.base import Storage
from svc_dist.storage.open import open_storage

_SAVE = "save them by one version of transformers: AutoTokenizer.from_pretrained(path).save_pretrained(path)"


@dataclass(frozen=True)
class ResultVocabulary:
    """The tokens of the results: those of model ``start`` at their numbers, then the ``added`` ones.

    ``tokens``: the row of each.
    """

    start: int
    added: tuple[AddedToken, ...]
    tokens: Mapping[str, int] = field(repr=False)

    @property
    def rows(self) -> int:
        """One more than the last token's number."""
        return max(self.tokens.values(), default=-1) + 1


def result_vocabulary(
    vocabularies: Vocabularies, models: Mapping[int, int], vocab: Vocab, choice: TokenizerChoice, named: int | None
) -> ResultVocabulary | None:
    """The vocabulary that a recipe asks for; None where no model has a tokenizer.

    ``models``: how many rows each model has that is merged; ``named``: the model whose tokenizer the recipe names.
    Raises PlanError.
    """
    known = [number for number in models if vocabularies.read[number] is not None]
    if not known:
        if vocab == "union":
            raise PlanError(
                f"{choice.where}: no model has a tokenizer, so no union of vocabularies can be made",
                _SAVE,
                code="tokenizer-missing",
            )
        return None
    try:
        for number in known[1:]:
            vocabularies.clash(known[0], number, 1)
        whole = vocabularies.with_all_tokens(known, models) if vocab == "union" and named is None else None
    except IncomparableError:
        locations = ", ".join(vocabularies.models[number] for number in known)
        raise PlanError(
            f"{choice.where}: the tokenizers of {locations} cannot be compared", _SAVE, code="vocab-incomparable"
        ) from None
    start = named if named is not None else whole if whole is not None else known[0]
    tokens = dict(tokens_of(vocabularies.known(start)))
    added: list[AddedToken] = []
    if vocab == "union":
        for number in known:
            _extend(vocabularies, number, models[number], start, tokens, added, choice.where)
    for one in choice.tokens:
        if one.token not in tokens:
            owner = next((n for n in known if one.token in vocabularies.known(n).added), None)
            flags = {} if owner is None else _flags(vocabularies, owner).get(one.token, {})
            added.append(AddedToken(one.token, _next(tokens), **flags))
            tokens[one.token] = added[-1].id
    if added:
        _require_extensible(vocabularies, start, choice.where)
    return ResultVocabulary(start, tuple(added), tokens)


def _extend(
    vocabularies: Vocabularies,
    number: int,
    rows: int,
    start: int,
    tokens: dict[str, int],
    added: list[AddedToken],
    where: str,
) -> None:
    """Add the tokens of one model that are not there yet. Raises PlanError for those that cannot be added."""
    vocabulary = vocabularies.known(number)
    new = sorted((n, token) for token, n in tokens_of(vocabulary).items() if 0 <= n < rows and token not in tokens)
    trained = [token for _, token in new if token not in vocabulary.added]
    if trained and not takes_words(_folder(vocabularies, start)):
        raise PlanError(
            f"{where}: {vocabulary.location} has {counted(len(trained), 'token')}, like {trained[0]!r}, that no one "
            "added to its tokenizer: it was trained to split text otherwise than that of "
            f"{vocabularies.known(start).location}, and no one tokenizer can split text as both",
            "write `tokenizer_source:` with the model whose tokenizer the result should have: rows are matched by "
            "token, and tokens that only other models have are left out",
            code="vocab-no-union",
        )
    flags = _flags(vocabularies, number) if new else {}
    next_number = _next(tokens)
    words = set(trained)
    for count, (_, token) in enumerate(new):
        added.append(AddedToken(token, next_number + count, **flags.get(token, {}), word=token in words))
        tokens[token] = next_number + count


def _require_extensible(vocabularies: Vocabularies, start: int, where: str) -> None:
    folder = _folder(vocabularies, start)
    if "tokenizer.json" not in folder.names():
        raise PlanError(
            f"{where}: tokens are to be added to the tokenizer of {folder.location}, which has no tokenizer.json",
            _SAVE,
            code="vocab-no-union",
        )


def _next(tokens: Mapping[str, int]) -> int:
    return max(tokens.values(), default=-1) + 1


def _flags(vocabularies: Vocabularies, number: int) -> Mapping[str, Mapping[str, bool]]:
    return token_flags(_folder(vocabularies, number))


def _folder(vocabularies: Vocabularies, number: int) -> Storage:
    return open_storage(vocabularies.known(number).location, vocabularies.access)
