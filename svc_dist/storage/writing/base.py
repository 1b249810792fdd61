"""The protocol of sinks: shards, the writer of one range, and the state of a shard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
class ShardState:
    """How much of a shard the storage has: all of it under its name, or some ranges.

    ``tokens``: the identities of each part, by number (several when a part was sent again). None where the storage has
    no parts: then the receipts decide.
    """

    finished: bool
    tokens: Mapping[int, Collection[str]] | None = None


class LostRangesError(StorageError):
    """A shard cannot be finished: the storage has lost some of its ranges."""


class RangeWriter(Protocol):
    """Takes the bytes of one range in order. ``commit`` makes them durable and returns the tokens of its parts."""

    retries: Retries

    def write(self, data: memoryview) -> None: ...

    def commit(self) -> tuple[str, ...]: ...

    def __enter__(self) -> RangeWriter: ...

    def __exit__(self, *exception: object) -> None: ...


class RangeSink(Protocol):
    """Where units write their ranges."""

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> RangeWriter:
        """A writer for bytes ``[start, end)`` of a prepared shard: parts of these sizes from ``first_part`` on."""


class Sink(RangeSink, Protocol):
    """The destination of a model on a storage.

    ``memory``: bytes of buffers for each range in flight, at most; ``self_proving``: whether the tokens of parts, and
    what the storage says of a finished shard, prove their content.
    """

    memory: int
    self_proving: bool

    def prepare(self, shards: Sequence[ShardFile]) -> None:
        """Make room for shards. Another call keeps the ranges that are written."""

    def state(self, shard: ShardFile) -> ShardState | None:
        """How much of a shard the storage has; None when this plan has written nothing of it."""

    def digest(self, shard: ShardFile, start: int, end: int, tokens: Sequence[str]) -> str:
        """The XXH3-128 of bytes ``[start, end)`` of a shard, finished or not, as the storage has them; "" without them.

        ``tokens``: of the parts of this range. Only where the sink is not ``self_proving``.
        """

    def finish(self, shard: ShardFile, tokens: Sequence[str]) -> None:
        """Make a complete shard visible; ``tokens``: of its parts, in order. Another call does nothing.

        Raises LostRangesError when parts are missing; ``state`` says which.
        """


class Buffers:
    """Memory for parts, which is used again and again: each page of new memory has to be cleared and mapped."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> bytearray:
        """A buffer of at least ``size`` bytes."""
        with self._lock:
            for number, buffer in enumerate(self._free):
                if len(buffer) >= size:
                    return self._free.pop(number)
            del self._free[:1]  # a smaller one goes, so that there are never more than were in use
        return bytearray(size)

    def give_back(self, buffer: bytearray) -> None:
        with self._lock:
            self._free.append(buffer)


class PartsWriter:
    """Sends each part as soon as it is full, a few of them in parallel, while the next one is filled.

    ``send``: writes the part with a number, counts its retries, and returns its token. ``ahead``: parts in flight at
    most; these and the one that is being filled are in memory, in ``buffers``. ``what``: the file, for messages.
    """

    def __init__(
        self,
        send: Callable[[int, memoryview, Retries], str],
        what: str,
        first: int,
        sizes: Sequence[int],
        ahead: int,
        buffers: Buffers,
    ) -> None:
        self._send, self._what, self._ahead, self._buffers = send, what, ahead, buffers
        self._number = first
        self._sizes = list(sizes)
        self._filling: bytearray | None = None
        self._filled = 0
        self._sent: list[Future[str]] = []
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="upload")
        self.retries = Retries()

    def __enter__(self) -> PartsWriter:
        return self

    def write(self, data: memoryview) -> None:
        rest = data.cast("B") if data.nbytes else data
        while rest.nbytes:
            if not self._sizes:
                raise ValueError(f"{self._what}: {rest.nbytes} bytes past the range's end")
            if self._filling is None:
                self._filling = self._buffers.take(self._sizes[0])
            count = min(self._sizes[0] - self._filled, rest.nbytes)
            self._filling[self._filled : self._filled + count] = rest[:count]
            self._filled += count
            rest = rest[count:]
            if self._filled == self._sizes[0]:
                self._start_sending(self._filling)

    def commit(self) -> tuple[str, ...]:
        if self._sizes:
            raise ValueError(f"{self._what}: {sum(self._sizes) - self._filled} bytes are not written")
        return tuple(part.result() for part in self._sent)

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._filling is not None:
            self._buffers.give_back(self._filling)

    def _start_sending(self, buffer: bytearray) -> None:
        number, size = self._number, self._sizes.pop(0)

        def send() -> str:
            try:
                return self._send(number, memoryview(buffer)[:size], self.retries)
            finally:
                self._buffers.give_back(buffer)

        if len(self._sent) >= self._ahead:
            self._sent[-self._ahead].result()  # memory is bounded, and a failed part ends the unit early
        self._number, self._filling, self._filled = number + 1, None, 0
        self._sent.append(self._pool.submit(send))
