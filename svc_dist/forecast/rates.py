"""How fast a machine does each kind of work: rates, and the file of them that ``measure-host`` writes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from svc_dist.errors import RecipeError
from svc_dist.methods.costs import Work

_FORMAT = 3


@dataclass(frozen=True)
class Speed:
    """The speed at which one unit computes: operations a second by kind, as in ``Work``.

    ``eigen``: measured or estimated decompositions, as pairs of the size n and seconds, ascending; other sizes are
    interpolated. ``decode``, ``encode``: entries of quantised weights a second; decoding is the host's work, also
    where a device computes. ``transfer``: bytes a second to and from a device; 0 where there is none.
    """

    float64: float
    float32: float
    elementwise: float
    eigen: tuple[tuple[int, float], ...]
    decode: float
    encode: float
    transfer: float = 0.0

    def seconds(self, work: Work) -> float:
        """Seconds for some work on data in place."""
        products = work.float64 / self.float64 + work.float32 / self.float32
        decompositions = sum(count * self.eigen_seconds(size) for size, count in work.eigen)
        codes = work.decoded / self.decode + work.encoded / self.encode
        return products + decompositions + work.elementwise / self.elementwise + codes

    def eigen_seconds(self, size: float) -> float:
        """Seconds for one decomposition: a power of n between two known sizes, its cube outside of them."""
        for low, high in itertools.pairwise(self.eigen):
            if low[0] < size < high[0]:
                power = math.log(high[1] / low[1]) / math.log(high[0] / low[0])
                return float(low[1] * (size / low[0]) ** power)
        near = min(self.eigen, key=lambda known: abs(known[0] - size))
        return near[1] * float(size / near[0]) ** 3


@dataclass(frozen=True)
class StorageRates:
    """Bytes a second: ``*_each`` for one unit alone, ``read`` and ``write`` for all units of a node together."""

    read_each: float
    read: float
    write_each: float
    write: float


@dataclass(frozen=True)
class Host:
    """A machine as ``measure_host`` measured it.

    ``lanes``: units that compute in parallel, with ``threads_per_unit`` each; ``alone``, ``crowded``: the speed of one
    unit by itself, and of each of ``lanes`` units together; ``disk``: rates for files that are not in memory;
    ``storage``: rates of ``storage_url``; ``start``: seconds of a merge without units; ``record``: seconds to write a
    receipt; ``memory``: bytes available.
    """

    name: str
    processor: str
    measured: str
    versions: dict[str, str]
    cores: int
    threads_per_unit: int
    lanes: int
    alone: Speed
    crowded: Speed
    disk: StorageRates
    start: float
    record: float
    memory: int
    storage_url: str | None = None
    storage: StorageRates | None = None

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT} | dataclasses.asdict(self), indent=1) + "\n"


_DECODER = msgspec.json.Decoder(Host)


def read_host(file: Path) -> Host:
    """Read a file of ``measure-host``. Raises RecipeError when it is not one."""
    try:
        text = file.read_bytes()
        if msgspec.json.decode(text, type=dict[str, Any]).get("format") != _FORMAT:
            raise ValueError("another release of svc-dist wrote it")
        return _DECODER.decode(text)
    except OSError as error:
        raise RecipeError(
            f"cannot read {file}: {error.strerror}", f"write it first: svc-dist measure-host {file}"
        ) from None
    except ValueError as error:
        raise RecipeError(
            f"{file} does not hold the rates of a host: {error}", f"write it again: svc-dist measure-host {file}"
        ) from None
