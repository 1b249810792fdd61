"""The receipt of a unit: proof that its range is durable, and what was seen on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True)
class WrittenRange:
    """A unit's range in one result.

    ``checksum``: XXH3-128 of the range's bytes; ``tokens``: what the store returned for each part (its ETag);
    ``matrices``: one summary for each matrix that was decomposed.
    """

    checksum: str
    tokens: tuple[str, ...]
    matrices: list[dict[str, Any]]


@dataclass(frozen=True)
class Receipt:
    """One unit done.

    ``ranges``: one for each of the plan's results; ``seconds`` by stage; ``deltas``: how large the deltas of each
    merged tensor (of this unit's part of it) are and how far they overlap (``delta_overlap``); ``retries``: storage
    requests that were repeated; ``low_memory``: computed on the path of least memory, whose results can differ in their
    last bits.
    """

    unit: str
    fingerprint: str
    ranges: tuple[WrittenRange, ...]
    bytes_in: int
    bytes_out: int
    seconds: dict[str, float]
    host: str
    device: str
    retries: int = 0
    deltas: list[dict[str, Any]] = field(default_factory=list)
    low_memory: bool = False

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Raises ValueError for a damaged receipt."""
        return msgspec.json.decode(data, type=cls)
