"""German translations of short texts, from the catalogues of Python packages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from benchmarks.quality.sources import python_package

_NAMES = ("iso3166-1", "iso4217", "iso639-5")  # countries, currencies, families of languages
_LONGEST = 48  # characters


def german() -> Iterator[tuple[str, str]]:
    """Texts of Django's pages and messages, and names of countries, currencies and languages, in German."""
    catalogues = sorted(python_package("django").glob("**/locale/de/LC_MESSAGES/*.mo"))
    names = python_package("pycountry") / "locales" / "de" / "LC_MESSAGES"
    for catalogue in [*catalogues, *(names / f"{name}.mo" for name in _NAMES)]:
        for text, translation in messages(catalogue):
            plain = not any(sign in text + translation for sign in "\n%{<")
            if plain and text != translation and 3 < len(text) <= _LONGEST and len(translation) <= _LONGEST:
                yield f"German: {text}", translation


def messages(catalogue: Path) -> Iterator[tuple[str, str]]:
    """The entries of a compiled gettext catalogue, without contexts and plurals."""
    data = catalogue.read_bytes()
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    count, originals, translations = struct.unpack_from(f"{order}3I", data, 8)

    def text(table: int, index: int) -> str:
        length, offset = struct.unpack_from(f"{order}2I", data, table + 8 * index)
        return data[offset : offset + length].decode("utf-8").partition("\0")[0]

    for index in range(count):
        original = text(originals, index).partition("\4")
        if (chosen := original[2] or original[0]) and (translation := text(translations, index)):
            yield chosen, translation
