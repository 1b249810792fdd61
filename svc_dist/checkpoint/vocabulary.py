"""The vocabulary of a tokenizer: each token's number in every format, and the first number on which two disagree."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from svc_dist.checkpoint.header import json_object
from svc_dist.checkpoint.tokenizer import CONFIG_FILE, KINDS, WORDS, vocabulary_kind
from svc_dist.errors import DamagedInputError
from svc_dist.storage.base import Storage

_ADDED = "added_tokens.json"
_PARSING = threading.Lock()  # so that equal files, read in parallel, are parsed once
_LONGEST = 70  # bits of a number in a protocol buffer, in groups of seven


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens and their numbers.

    ``words``: all tokens, where a file lists them as text; ``added``: those that were added to the trained ones;
    ``files``: the content of vocabularies of their own format, by kind.
    """

    location: str
    words: Mapping[str, int] | None
    added: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Clash:
    """A number below the rows of an embedding that two vocabularies use differently.

    ``token`` has the number in the vocabulary at ``location``; in the one at ``other`` it has ``elsewhere`` (None: it
    is unknown there), and the number is that of ``instead`` (None: of no token).
    """

    number: int
    token: str
    location: str
    other: str
    elsewhere: int | None
    instead: str | None

    def __str__(self) -> str:
        instead = "" if self.instead is None else f" (there {self.number} is {self.instead!r})"
        elsewhere = "none" if self.elsewhere is None else self.elsewhere
        here = f"the token {self.token!r} is number {self.number} in {self.location}"
        return f"{here}, but {elsewhere} in {self.other}{instead}"


class IncomparableError(Exception):
    """Two vocabularies have no format in common."""


def read_vocabulary(folder: Storage, known: dict[str, Mapping[str, int]]) -> Vocabulary | None:
    """The vocabulary among a model's files; None where there is none. Raises DamagedInputError.

    ``known``: words of files that were read before, by their digest, so that equal files are parsed once.
    """
    names = folder.names()
    added: dict[str, int] = {}
    words: Mapping[str, int] | None = None
    if CONFIG_FILE in names:
        with contextlib.suppress(DamagedInputError):  # planning refuses it where it is copied
            added |= _decoder(folder)
    if _ADDED in names:
        added |= _numbers(folder, _ADDED, _object(folder, _ADDED))
    if (file := next((name for name in WORDS if name in names), None)) is not None:
        data = folder.read(file)
        digest = hashlib.sha256(data).hexdigest()
        with _PARSING:
            if digest not in known:
                known[digest] = _numbers(folder, file, _words(folder, file, data))
            words = known[digest]
            if file == "tokenizer.json" and f"added:{digest}" not in known:
                known[f"added:{digest}"] = _numbers(folder, file, _added(folder, data))
        added = {**added, **known.get(f"added:{digest}", {})}
        words = {**added, **words} if added.keys() - words.keys() else words
    files = {kind: folder.read(name) for name in names if (kind := vocabulary_kind(name)) is not None}
    return Vocabulary(folder.location, words, added, files) if words or files else None


def missing_token(one: Vocabulary, other: Vocabulary, rows: int) -> Clash | None:
    """A token of ``other`` below ``rows`` that has another number or none in ``one``. Raises IncomparableError."""
    if first_clash(other, one, rows) is None:
        return None
    ours, theirs = tokens_of(one), tokens_of(other)
    lost = ((number, token) for token, number in theirs.items() if 0 <= number < rows and ours.get(token) != number)
    first = min(lost, default=None)
    if first is None:
        return None
    instead = next((token for token, number in ours.items() if number == first[0]), None)
    return Clash(*first, other.location, one.location, ours.get(first[1]), instead)


def tokens_of(of: Vocabulary) -> Mapping[str, int]:
    """All tokens that a vocabulary tells by name."""
    if of.words is not None:
        return of.words
    kind = next((kind for kind in KINDS if kind in of.files), None)
    return {**({} if kind is None else _parsed(kind, of.files[kind])), **of.added}


def first_clash(one: Vocabulary, other: Vocabulary, rows: int) -> Clash | None:
    """The smallest number below ``rows`` that two vocabularies use differently. Raises IncomparableError."""
    if one.words is not None and other.words is not None:
        return _first(one, other, one.words, other.words, rows)
    kind = next((kind for kind in KINDS if kind in one.files and kind in other.files), None)
    if kind is None:
        raise IncomparableError
    tokens, others = (_parsed(kind, each.files[kind]) for each in (one, other))
    if one.files[kind] == other.files[kind]:
        end = max(tokens.values(), default=rows)  # trained tokens may be listed as added in one of them only
        ours, theirs = (
            {token: number for token, number in mine.items() if number > end or token in its}
            for mine, its in ((one.added, other.added), (other.added, one.added))
        )
        return _first(one, other, ours, theirs, rows)
    if not tokens or not others:
        return Clash(0, f"(the whole of {kind})", one.location, other.location, None, None)
    return _first(one, other, {**tokens, **one.added}, {**others, **other.added}, rows)


def _first(
    one: Vocabulary, other: Vocabulary, ours: Mapping[str, int], theirs: Mapping[str, int], rows: int
) -> Clash | None:
    if ours == theirs:
        return None
    least: tuple[int, int, str] | None = None
    for side, (mine, its) in enumerate(((ours, theirs), (theirs, ours))):
        for token, number in mine.items():
            if 0 <= number < rows and its.get(token) != number and (least is None or (number, side, token) < least):
                least = (number, side, token)
    if least is None:
        return None
    number, side, token = least
    here, there, mapping = (other, one, ours) if side else (one, other, theirs)
    instead = next((each for each, its in mapping.items() if its == number), None)
    return Clash(number, token, here.location, there.location, mapping.get(token), instead)


def _words(folder: Storage, file: str, data: bytes) -> Mapping[str, Any]:
    if file == "vocab.txt":
        return {token: number for number, token in enumerate(data.decode("utf-8", "replace").splitlines())}
    found = json_object(data, f"{folder.location}/{file}")
    if file == "vocab.json":
        return found
    try:
        vocabulary = found["model"]["vocab"]
        if isinstance(vocabulary, list):
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        return {**vocabulary, **_added(folder, data, found)}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedInputError(f"{folder.location}/{file}: not a tokenizer: {error!r}") from None


def _added(folder: Storage, data: bytes, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The added tokens of a ``tokenizer.json``."""
    where = f"{folder.location}/tokenizer.json"
    entries = (json_object(data, where) if found is None else found).get("added_tokens") or []
    try:
        return {entry["content"]: entry["id"] for entry in entries}
    except (KeyError, TypeError) as error:
        raise DamagedInputError(f"{where}: not a tokenizer: {error!r}") from None


def _numbers(folder: Storage, file: str, tokens: Mapping[Any, Any]) -> dict[str, int]:
    try:
        return {str(token): int(number) for token, number in tokens.items()}
    except (TypeError, ValueError) as error:
        raise DamagedInputError(f"{folder.location}/{file}: not a tokenizer: {error!r}") from None


def _decoder(folder: Storage) -> dict[str, int]:
    """The tokens that ``tokenizer_config.json`` lists as added."""
    entries = _object(folder, CONFIG_FILE).get("added_tokens_decoder")
    items = entries.items() if isinstance(entries, Mapping) else ()
    named = ((number, entry.get("content")) for number, entry in items if isinstance(entry, Mapping))
    return _numbers(folder, CONFIG_FILE, {content: number for number, content in named if isinstance(content, str)})


def _object(folder: Storage, name: str) -> Mapping[str, Any]:
    return json_object(folder.read(name), f"{folder.location}/{name}")


def _parsed(kind: str, data: bytes) -> dict[str, int]:
    """The tokens of a vocabulary of its own format; none where it has another form."""
    try:
        if kind == "tekken.json":
            found = json.loads(data)
            special = [str(entry["token_str"]) for entry in found.get("special_tokens") or []]
            first = int(found["config"]["default_num_special_tokens"])
            plain = {str(entry["token_bytes"]): first + int(entry["rank"]) for entry in found["vocab"]}
            return {**plain, **{token: number for number, token in enumerate(special)}}
        if kind == ".tiktoken":
            lines = (line.split() for line in data.decode().splitlines() if line)
            return {token: int(number) for token, number in lines}
        return {piece: number for number, piece in enumerate(_pieces(data))}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return {}


def _pieces(data: bytes) -> Iterator[str]:
    """The pieces of a SentencePiece model: the first field of each first field of a protocol buffer."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 == 2:
            size, position = _varint(data, position)
            if tag == 10:
                inner, start = _varint(data, position)
                length, start = _varint(data, start)
                if inner != 10:
                    raise ValueError("a piece without its text")
                yield data[start : start + length].decode()
            position += size
        elif tag & 7 in (1, 5):
            position += 8 if tag & 7 == 1 else 4
        elif tag & 7 == 0:
            _, position = _varint(data, position)
        else:
            raise ValueError("not a protocol buffer")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if shift > _LONGEST:
            raise ValueError("not a protocol buffer")
        if byte < 128:
            return value, position
