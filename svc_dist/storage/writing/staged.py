"""Ranges out to a storage without multipart uploads: staged pieces, then one join per shard.

Each part of a range becomes a file in the run folder. Finishing a shard joins them into its file, by the storage itself
where it can (Google's), else by one streamed write, and a record in the run folder distinguishes a finished shard from
an interrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from svc_dist.storage.base import Storage
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import PART, Buffers, LostRangesError, PartsWriter, ShardFile, ShardState


class StagedSink:
    """Writes the shards of one plan under a prefix."""

    memory = 3 * PART  # the part that is filled, and the one that is sent, of which clients make a copy
    self_proving = False

    def __init__(self, storage: Storage, run_folder: Storage, fingerprint: str) -> None:
        self._storage = storage
        self._run_folder = run_folder
        self._fingerprint = fingerprint
        self._buffers = Buffers()

    def prepare(self, shards: Sequence[ShardFile]) -> None:
        """Do nothing: pieces need no preallocation."""

    def state(self, shard: ShardFile) -> ShardState | None:
        if self._is_finished(shard):
            return ShardState(finished=True)
        pieces = self._pieces(shard).names()
        return ShardState(finished=False, tokens={int(name.split("-")[0]): [name] for name in pieces})

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> PartsWriter:
        pieces = self._pieces(shard)

        def send(number: int, data: memoryview, retries: Retries) -> str:
            token = f"{number:05d}-{len(data)}"
            pieces.put(token, bytes(data))
            return token

        return PartsWriter(send, pieces.location, first_part, parts, 1, self._buffers)

    def digest(self, shard: ShardFile, start: int, end: int, tokens: Sequence[str]) -> str:
        digest = xxhash.xxh3_128()
        if self._is_finished(shard):
            for first in range(start, end, PART):
                digest.update(self._storage.read(shard.file, first, min(first + PART, end)))
            return digest.hexdigest()
        pieces = self._pieces(shard)
        for token in tokens:
            data = pieces.get(token)
            if data is None:
                return ""
            digest.update(data)
        return digest.hexdigest()

    def finish(self, shard: ShardFile, tokens: Sequence[str]) -> None:
        pieces = self._pieces(shard)
        if not self._is_finished(shard):
            existing = set(pieces.names())
            missing = [token for token in tokens if token not in existing]
            if missing:
                raise LostRangesError(
                    f"{pieces.location}: {len(missing)} of {len(tokens)} pieces are gone",
                    "another program removed them; run the same command again to write them again",
                )
            folder = pieces.location.removeprefix(f"{self._storage.location}/")
            self._storage.join(shard.file, [f"{folder}/{token}" for token in tokens], f"{folder}/joined")
            self._run_folder.put(_record(shard), self._fingerprint.encode())
        pieces.clear()

    def _is_finished(self, shard: ShardFile) -> bool:
        recorded = self._run_folder.get(_record(shard))
        file = self._storage.stat(shard.file) if recorded is not None else None
        return file is not None and file.size == shard.size and recorded == self._fingerprint.encode()

    def _pieces(self, shard: ShardFile) -> Storage:
        return self._run_folder.sub(f"pieces/{shard.file}")


def _record(shard: ShardFile) -> str:
    return f"finished/{shard.file}"
