"""What every way of writing a model has in common: shards, the writer of one range, and what is there of a shard."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from svc_dist.errors import StorageError
from svc_dist.storage.retry import Retries

#: A longer range is sent as several parts of this size, each over a connection of its own.
PART = 16 * 2**20


@dataclass(frozen=True)
class ShardFile:
    """An output file of ``size`` bytes."""

    file: str
    size: int


@dataclass(frozen=True)
class Held:
    """What a sink holds of a shard: all of it under its name, or a partial one.

    ``tokens``: what it gave for each part, by number (more than one when a part was sent again), where it can tell;
    else the receipts are to be believed.
    """

    finished: bool
    tokens: Mapping[int, Collection[str]] | None = None


class LostRangesError(StorageError):
    """A shard cannot be finished: the store does not hold all the parts that it gave tokens for."""


class RangeWriter(Protocol):
    """Takes the bytes of one range in order. ``commit`` makes them durable and returns the store's tokens for them."""

    retries: Retries

    def write(self, data: memoryview) -> None: ...

    def commit(self) -> tuple[str, ...]: ...

    def __enter__(self) -> RangeWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sink(Protocol):
    """Where a model is written to. ``memory``: bytes that it holds at most for each range in flight."""

    memory: int

    def prepare(self, shards: Sequence[ShardFile]) -> None:
        """Make room for shards. Done again, it keeps what is there."""

    def held(self, shard: ShardFile) -> Held | None:
        """What is there of a shard; None when nothing is that this plan put there."""

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> RangeWriter:
        """A writer for bytes ``[start, end)`` of a prepared shard: parts of these sizes from ``first_part`` on."""

    def finish(self, shard: ShardFile, tokens: Sequence[str]) -> None:
        """Make a complete shard visible, ``tokens`` those of its parts in order. Done again, it does nothing.

        Raises LostRangesError when some are not there; ``held`` tells which.
        """
