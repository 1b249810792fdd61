"""Tokens that the result has beyond those of the tokenizer that it begins with, and the tokenizer files that say so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from svc_dist.checkpoint.header import json_object
from svc_dist.checkpoint.tokenizer import CONFIG_FILE
from svc_dist.storage.base import Storage

#: Files that list added tokens; where a tokenizer has one of them, it is written anew.
LISTS = ("tokenizer.json", CONFIG_FILE, "added_tokens.json")
#: Tokenizers that find their words in a list, so that one more word in it is one more token.
_WORD_MODELS = ("WordLevel", "WordPiece")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token and its number, as tokenizer files have it. ``word``: a word of the vocabulary, not an added token."""

    content: str
    id: int
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False
    word: bool = False


def token_flags(folder: Storage) -> dict[str, dict[str, bool]]:
    """How a model's tokenizer treats each of its added tokens."""
    names = folder.names()
    flags: dict[str, dict[str, bool]] = {}
    for file, key in ((CONFIG_FILE, "added_tokens_decoder"), ("tokenizer.json", "added_tokens")):
        entries = _object(folder, file).get(key) if file in names else None
        listed = entries.values() if isinstance(entries, Mapping) else entries or ()
        for entry in listed if isinstance(listed, Sequence | type({}.values())) else ():
            if isinstance(entry, Mapping) and isinstance(entry.get("content"), str):
                flags[entry["content"]] = {flag: bool(entry[flag]) for flag in _FLAGS if flag in entry}
    return flags


def takes_words(folder: Storage) -> bool:
    """Whether words can be added to the vocabulary of a ``tokenizer.json``."""
    if "tokenizer.json" not in folder.names():
        return False
    model = _object(folder, "tokenizer.json").get("model")
    return isinstance(model, Mapping) and model.get("type") in _WORD_MODELS


def with_tokens(name: str, data: bytes, tokens: Sequence[AddedToken]) -> bytes:
    """One of the files ``LISTS`` with more tokens."""
    found: dict[str, Any] = json.loads(data)
    plain = [one for one in tokens if not one.word]
    if name == "added_tokens.json":
        found |= {one.content: one.id for one in tokens}
    elif name == "tokenizer.json":
        _add_to_tokenizer(found, tokens)
    elif isinstance(found.get("added_tokens_decoder"), dict):
        found["added_tokens_decoder"] |= {str(one.id): _entry(one) for one in plain}
    return (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()


def _add_to_tokenizer(found: dict[str, Any], tokens: Sequence[AddedToken]) -> None:
    vocabulary, added = found["model"]["vocab"], found.get("added_tokens") or []
    first = max([len(vocabulary), *(int(one["id"]) + 1 for one in added)])
    # Loaders number added tokens one after the other. Where these have other numbers, the vocabulary says them.
    counted = [one.id for one in tokens] == [*range(first, first + len(tokens))] and not any(one.word for one in tokens)
    if isinstance(vocabulary, dict) and not counted:
        vocabulary |= {one.content: one.id for one in tokens}
    found["added_tokens"] = added + [{"id": one.id, **_entry(one)} for one in tokens if not one.word]


def _entry(one: AddedToken) -> dict[str, Any]:
    entry = asdict(one)
    return {"content": one.content, **{flag: entry[flag] for flag in _FLAGS}}


def _object(folder: Storage, name: str) -> Mapping[str, Any]:
    return json_object(folder.read(name), f"{folder.location}/{name}")
