"""Ranges out to any storage that fsspec knows: staged pieces, then one streamed write a shard.

Such storages know no parts that many can write. Each range becomes a file of its own in the run folder; finishing a
shard streams them into its file, and a record in the run folder tells a whole one from one that was cut short.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from svc_dist.storage.fsspec import FsspecObjects
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import PART, Held, LostRangesError, RangeWriter, ShardFile

_BLOCK = 16 << 20  # bytes in hand while a shard is put together


class StagedSink:
    """Writes the shards of one plan under a prefix."""

    memory = 2 * PART

    def __init__(self, objects: FsspecObjects, run_folder: str, fingerprint: str) -> None:
        self._objects = objects
        self._folder = run_folder
        self._fingerprint = fingerprint

    def prepare(self, shards: Sequence[ShardFile]) -> None:
        """Nothing: pieces need no room made for them."""

    def held(self, shard: ShardFile) -> Held | None:
        if self._is_finished(shard):
            return Held(finished=True)
        pieces = self._objects.names(self._pieces(shard))
        return Held(finished=False, tokens={int(name.split("-")[0]): [name] for name in pieces})

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> RangeWriter:
        return _StagedRange(self._objects, self._pieces(shard), first_part, parts)

    def finish(self, shard: ShardFile, tokens: Sequence[str]) -> None:
        folder = self._pieces(shard)
        if not self._is_finished(shard):
            there = set(self._objects.names(folder))
            missing = [token for token in tokens if token not in there]
            if missing:
                raise LostRangesError(
                    f"{self._objects.location}/{folder}: {len(missing)} of {len(tokens)} pieces are gone",
                    "something else removed them; start the same command again: what is missing is written again",
                )
            self._objects.retrying(
                lambda: self._stream(shard, [f"{folder}/{token}" for token in tokens]),
                f"cannot write {self._objects.location}/{shard.file}",
            )
            self._objects.put(self._record(shard), self._fingerprint.encode())
        for name in self._objects.names(folder):
            self._objects.delete(f"{folder}/{name}")

    def _stream(self, shard: ShardFile, pieces: Sequence[str]) -> None:
        self._objects.filesystem.makedirs(self._objects.path(shard.file).rpartition("/")[0], exist_ok=True)
        with self._objects.filesystem.open(self._objects.path(shard.file), "wb", block_size=_BLOCK) as file:
            for name in pieces:
                file.write(self._objects.read(name))

    def _is_finished(self, shard: ShardFile) -> bool:
        if self._objects.identity(self._record(shard)) is None:
            return False
        found = self._objects.identity(shard.file)
        recorded = self._objects.read(self._record(shard)).decode()
        return found is not None and found.size == shard.size and recorded == self._fingerprint

    def _pieces(self, shard: ShardFile) -> str:
        return f"{self._folder}/pieces/{shard.file}"

    def _record(self, shard: ShardFile) -> str:
        return f"{self._folder}/finished/{shard.file}"


class _StagedRange:
    """Writes each full part as a file of its own. A part's token is its name: number and size."""

    def __init__(self, objects: FsspecObjects, folder: str, first_part: int, parts: Sequence[int]) -> None:
        self._objects, self._folder = objects, folder
        self._number = first_part
        self._sizes = list(parts)
        self._filling = bytearray()
        self._tokens: list[str] = []
        self.retries = Retries()

    def __enter__(self) -> _StagedRange:
        return self

    def write(self, data: memoryview) -> None:
        rest = data.cast("B") if data.nbytes else data
        while rest.nbytes:
            if not self._sizes:
                raise ValueError(f"{self._folder}: {rest.nbytes} bytes past the range's end")
            room = self._sizes[0] - len(self._filling)
            self._filling += rest[:room]
            rest = rest[room:]
            if len(self._filling) == self._sizes[0]:
                token = f"{self._number:05d}-{self._sizes.pop(0)}"
                self._objects.put(f"{self._folder}/{token}", bytes(self._filling))
                self._tokens.append(token)
                self._number += 1
                self._filling = bytearray()

    def commit(self) -> tuple[str, ...]:
        if self._sizes:
            raise ValueError(f"{self._folder}: {sum(self._sizes) - len(self._filling)} bytes are not written")
        return tuple(self._tokens)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
