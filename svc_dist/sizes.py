"""Sizes and counts as people write them: ``5GB`` is 5 * 1000**3 bytes, ``5GiB`` is 5 * 1024**3."""

from __future__ import annotations

import re

from svc_dist.errors import RecipeError

_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def parse_size(text: str | int) -> int:
    """Bytes from ``"5GB"``, ``"512 MiB"``, ``"1.5e9"`` or an integer. Raises RecipeError when it is none of these."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    if match is None or match[2].upper() not in _UNITS:
        raise RecipeError(
            f"{text!r} is not a size in bytes", "write a number with B, KB, MB, GB, TB or KiB, MiB, GiB, TiB"
        )
    size = float(match[1]) * _UNITS[match[2].upper()]
    if not 1 <= size < 2**63:
        raise RecipeError(f"the size {text!r} is not between 1 byte and 8 EiB")
    return int(size)


def format_size(size: float) -> str:
    """A size for people, in decimal units: ``2.20 GB``."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size:.0f} B"


def counted(count: int, noun: str) -> str:
    """A number with its noun: ``1 shard``, ``2,000 shards``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
