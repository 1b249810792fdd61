"""The receipt of a unit: proof that its range is durable, and what was seen on the way."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Written:
    """A unit's range in one result: ``checksum``, ``tokens`` and ``matrices`` as in ``Receipt``."""

    checksum: str
    tokens: tuple[str, ...]
    matrices: list[dict[str, Any]]


@dataclass(frozen=True)
class Receipt:
    """One unit done.

    ``checksum``: XXH3-128 of the range's bytes; ``tokens``: what the store gave for each part (its ETag);
    ``retries``: requests to storages that had to be repeated;
    ``low_memory``: done on the path that takes least, whose results can differ in their last bits;
    ``seconds`` by stage; ``matrices``: one summary per matrix that was decomposed; ``deltas``: of every merged tensor,
    or of the part of it that is this unit's, how large its deltas are and how far they overlap (``delta_overlap``);
    ``others``: the range in the plan's other results, where it has several.
    """

    unit: str
    fingerprint: str
    checksum: str
    tokens: tuple[str, ...]
    bytes_in: int
    bytes_out: int
    seconds: dict[str, float]
    host: str
    device: str
    matrices: list[dict[str, Any]]
    retries: int = 0
    deltas: list[dict[str, Any]] = field(default_factory=list)
    low_memory: bool = False
    others: tuple[Written, ...] = ()

    def written(self, result: int) -> Written:
        """The range in one of the plan's results."""
        return self.others[result - 1] if result else Written(self.checksum, self.tokens, self.matrices)

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        content = json.loads(data)
        others = tuple(Written(**{**entry, "tokens": tuple(entry["tokens"])}) for entry in content["others"])
        return cls(**{**content, "tokens": tuple(content["tokens"]), "others": others})
