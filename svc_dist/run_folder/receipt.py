"""The receipt of a unit: proof that its range is durable, and what was seen on the way.

The file ends with a seal, the checksum of what stands before it: a receipt that was cut, edited or damaged is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import xxhash

from svc_dist.plan.model import Plan

_SEAL = b',"seal":"%s"}'


@dataclass(frozen=True, slots=True)
class WrittenRange:
    """A unit's range in one result.

    ``checksum``: XXH3-128 of the range's bytes; ``tokens``: what the store returned for each part (its ETag);
    ``matrices``: one summary for each matrix that was decomposed.
    """

    checksum: str
    tokens: tuple[str, ...]
    matrices: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Receipt:
    """One unit done.

    ``ranges``: one for each of the plan's results; ``seconds`` by stage; ``deltas``: how large the deltas of each
    merged tensor (of this unit's part of it) are and how far they overlap (``delta_overlap``); ``differences``: where a
    condition asks, how far experts are from the base, and which results merge the tensor (``Differing.records``);
    ``retries``: storage requests that were repeated; ``low_memory``: computed on the path of least memory, whose
    results can differ in their last bits.
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
    differences: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> bytes:
        return sealed(msgspec.json.encode(self))

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Raises ValueError for a damaged receipt."""
        body = data[: -len(_SEAL % bytes(32))] + b"}"
        if sealed(body) != data:
            raise ValueError("the seal is not that of the receipt")
        return _DECODER.decode(body)

    @property
    def brief(self) -> Receipt:
        """What proves the ranges, without what only the report takes: the driver of a run holds one of every unit."""
        ranges = tuple(WrittenRange(one.checksum, one.tokens, []) for one in self.ranges)
        return Receipt(self.unit, self.fingerprint, ranges, self.bytes_in, self.bytes_out, {}, "", "")

    def proves(self, plan: Plan, unit: str) -> bool:
        """Whether it is the receipt of this unit of this plan, which fixes the range, and has all that one has."""
        if self.unit != unit or self.fingerprint != plan.fingerprint or unit not in plan.unit:
            return False
        parts = len(plan.parts[unit][1])
        return len(self.ranges) == len(plan.results) and all(len(one.tokens) in (0, parts) for one in self.ranges)


#: Made once, by the thread that imports this: msgspec crashes where several threads decode a type for the first time.
_DECODER = msgspec.json.Decoder(Receipt)


def sealed(body: bytes) -> bytes:
    """A JSON object with its seal as the last key."""
    return body[:-1] + _SEAL % xxhash.xxh3_128_hexdigest(body).encode()
