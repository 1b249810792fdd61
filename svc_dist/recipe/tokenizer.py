"""The vocabulary and the tokenizer that a recipe asks for, by svc_dist's keys and by mergekit's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.recipe.locations import RecipeModel, absolute, model_number
from svc_dist.recipe.origin import Origin
from svc_dist.recipe.rules.keys import Vocab
from svc_dist.recipe.schema import Recipe, TokenRow, TokenRowOf
from svc_dist.storage.hub.cache import parse_hub_id
from svc_dist.storage.open import require_known
from svc_dist.storage.secrets import refuse_credentials


@dataclass(frozen=True)
class TokenChoice:
    """The row that a token gets in models that do not have it, or in all where ``force``.

    That is the row of ``of`` (a token, or a row's number) in ``model``, or zero where ``model`` is None. ``default``:
    the recipe names no row. ``where``: the line in the recipe.
    """

    token: str
    model: int | None
    of: str | int
    force: bool
    default: bool = False
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class TokenizerChoice:
    """What a recipe says about the result's vocabulary.

    ``vocab``: which rows are merged; ``source``: the model whose tokenizer is copied or extended, None where the recipe
    names none; ``other``: its location if it is not merged (then its number is that after the models); ``rows_follow``:
    the rows are those of that tokenizer (mergekit's keys say so), not the base's. ``tokens``: rows of single tokens;
    ``multiple``: what the number of rows must be a multiple of. ``where``: the line.
    """

    vocab: Vocab
    source: int | None = None
    other: str | None = field(default=None, kw_only=True)
    rows_follow: bool = False
    tokens: tuple[TokenChoice, ...] = ()
    multiple: int | None = None
    where: str = field(default="", compare=False)


def resolve_tokenizer(recipe: Recipe, models: Sequence[RecipeModel], origin: Origin, folder: Path) -> TokenizerChoice:
    """The choice of ``vocab``, ``tokenizer_source`` and ``tokenizer``. Raises RecipeError."""
    name, where = recipe.tokenizer_source, origin.at("tokenizer_source")
    if recipe.tokenizer is not None:
        name, where = recipe.tokenizer.source, origin.at("tokenizer", "source")
    if name is None:
        return TokenizerChoice(recipe.vocab, where=where)
    if name == "union" and recipe.vocab not in ("error", "union"):
        raise RecipeError(
            f"{origin.at('vocab')}: `vocab: {recipe.vocab}` and the union of vocabularies that {where} asks for "
            "contradict each other",
            "give one of them",
            code="vocab-no-union",
        )
    follows = recipe.vocab == "error"
    vocab: Vocab = "union" if name == "union" else "base" if follows else recipe.vocab
    source, other = (None, None) if name == "union" else _source(name, models, where, folder)
    given = recipe.tokenizer
    if given is None or not (given.tokens or given.pad_to_multiple_of):
        return TokenizerChoice(vocab, source, follows, where=where, other=other)
    if vocab == "common":
        raise RecipeError(
            f"{origin.at('tokenizer')}: with `vocab: common`, the rows are the base's: `tokens` and "
            "`pad_to_multiple_of` have no effect",
            "take one of them out",
            code="vocab-no-union",
        )
    tokens = tuple(
        _choice(token, row, models, origin.at("tokenizer", "tokens", token)) for token, row in given.tokens.items()
    )
    return TokenizerChoice(vocab, source, follows, tokens, given.pad_to_multiple_of, where, other=other)


def _source(name: str, models: Sequence[RecipeModel], where: str, folder: Path) -> tuple[int, str | None]:
    """The number of the model that a tokenizer is taken from; of one that is not merged, also its location."""
    name = name.removeprefix("model:")
    if name == "base" or any(name in model.names for model in models):
        return model_number(name, models, where), None
    is_location = "://" in name or parse_hub_id(name) is not None or name.startswith((".", "/", "~"))
    if not is_location and not (folder / name).is_dir():
        return model_number(name, models, where), None  # which says that no model is called so
    refuse_credentials(name, where)
    require_known(name, where)
    location = absolute(name, folder)
    known = next((number for number, model in enumerate(models) if model.location == location), None)
    return (len(models), location) if known is None else (known, None)


def plain_tokenizer(recipe: Recipe, choice: TokenizerChoice, models: Sequence[RecipeModel]) -> dict[str, Any]:
    """``tokenizer_source`` or ``tokenizer`` as plain data with locations in place of names."""
    name = recipe.tokenizer_source if recipe.tokenizer is None else recipe.tokenizer.source
    if name is None:
        return {}
    source = choice.other or (name if name in ("base", "union") else models[choice.source or 0].location)
    if not choice.tokens and choice.multiple is None:
        return {"tokenizer_source": source}
    tokens = {one.token: _plain(one, models) for one in choice.tokens}
    padded = {} if choice.multiple is None else {"pad_to_multiple_of": choice.multiple}
    return {"tokenizer": {"source": source, **({"tokens": tokens} if tokens else {}), **padded}}


def _choice(token: str, row: TokenRow | None, models: Sequence[RecipeModel], where: str) -> TokenChoice:
    if row is None or row.source is None:
        if row is not None and row.force:
            raise RecipeError(
                f"{where}: `force: true` gives every model the row of `source`, which is missing",
                "write source: a model, {kind: zero}, or {kind: model_token, model: ..., token: ...}",
                code="token-row-missing",
            )
        return TokenChoice(token, None, token, False, default=True, where=where)
    if isinstance(row.source, str):
        return TokenChoice(token, model_number(row.source, models, where), token, row.force, where=where)
    if not isinstance(row.source, TokenRowOf):
        return TokenChoice(token, None, token, row.force, where=where)
    number = model_number(row.source.model, models, where)
    of = row.source.token if row.source.token_id is None else row.source.token_id
    return TokenChoice(token, number, of if of is not None else token, row.force, where=where)


def _plain(one: TokenChoice, models: Sequence[RecipeModel]) -> dict[str, Any]:
    if one.default:
        return {}
    source: Any = {"kind": "zero"}
    if one.model is not None:
        key = "token" if isinstance(one.of, str) else "token_id"
        location = models[one.model].location
        source = location if one.of == one.token else {"kind": "model_token", "model": location, key: one.of}
    return {"source": source, **({"force": True} if one.force else {})}
