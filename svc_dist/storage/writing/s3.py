"""Ranges out to S3: one multipart upload a shard, a range is its planned parts, finishing is CompleteMultipartUpload.

An upload is made once, and recorded before its first part, so that a run that goes on sends to the same one. Before it
is begun, what others have on its name is recorded: whatever else appears there before ours is recorded was begun by a
start that was killed, or by a request that was sent twice, and is dropped. Nobody else's upload is touched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote, unquote

from svc_dist.errors import OutputError, StorageError
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3 import S3Objects
from svc_dist.storage.writing.base import PART, Held, LostRangesError, RangeWriter, ShardFile

_MARK = "svc-dist-plan"  # metadata of our objects: the fingerprint of the plan they belong to
#: Parts of one range that are on the way while the next is computed.
PARTS_AHEAD = 4
_UPLOADS = "uploads"  # where records are
_TOGETHER = 16  # uploads looked at or begun at once


class Records(Protocol):
    """Where the ids of uploads are recorded: the run folder."""

    def get(self, name: str) -> bytes | None: ...

    def put(self, name: str, data: bytes) -> None: ...

    def delete(self, name: str) -> None: ...

    def names(self, prefix: str) -> list[str]: ...


class S3Sink:
    """Writes the shards of one plan under a prefix of a bucket."""

    memory = (PARTS_AHEAD + 1) * PART

    def __init__(self, objects: S3Objects, records: Records, fingerprint: str) -> None:
        self._objects = objects
        self._records = records
        self._fingerprint = fingerprint
        self._uploads: dict[str, str] = {}

    def prepare(self, shards: Sequence[ShardFile]) -> None:
        with ThreadPoolExecutor(_TOGETHER) as pool:
            records = pool.map(lambda shard: self._record(shard.file), shards)
            known = dict(zip((shard.file for shard in shards), records, strict=True))
            missing = [shard for shard in shards if (known[shard.file] or {}).get("id") is None]
            finished = list(pool.map(self._is_finished, missing))
        missing = [shard for shard, there in zip(missing, finished, strict=True) if not there]
        if not missing:
            return
        files = [shard.file for shard in missing]
        before = self._objects.uploads(files)

        def begin(file: str) -> dict[str, Any]:
            record = known[file]
            if record is None:
                record = {"id": None, "others": sorted(before[file])}
                self._put_record(file, record)
            return record | {"id": self._objects.create_upload(file, {_MARK: self._fingerprint})}

        def settle(file: str, record: dict[str, Any]) -> None:
            for upload in now[file]:
                if upload != record["id"] and upload not in record["others"]:
                    self._objects.abort_upload(file, upload)
            self._put_record(file, record)

        with ThreadPoolExecutor(_TOGETHER) as pool:
            begun = list(pool.map(begin, files))
            now = self._objects.uploads(files)
            list(pool.map(settle, files, begun))

    def held(self, shard: ShardFile) -> Held | None:
        if self._is_finished(shard):
            return Held(finished=True)
        upload = self._upload(shard.file)
        parts = None if upload is None else self._objects.parts(shard.file, upload)
        if parts is None:
            if upload is not None:  # dropped by a lifecycle rule, or by hand: the next start begins another
                self._uploads.pop(shard.file, None)
                self._records.delete(_record_of(shard.file))
            return None
        tokens: dict[int, list[str]] = {}
        for part in parts:  # some stores list a part once for every time that it was sent
            tokens.setdefault(part.number, []).append(part.etag)
        return Held(finished=False, tokens=tokens)

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> RangeWriter:
        upload = self._upload(shard.file)
        if upload is None:
            raise StorageError(
                f"{self._objects.location}/.svc_dist has no upload of {shard.file}",
                "something else removed it; start the same command again",
            )
        return _UploadedRange(self._objects, shard.file, upload, first_part, parts)

    def finish(self, shard: ShardFile, tokens: Sequence[str]) -> None:
        upload = self._upload(shard.file)
        if upload is not None and not self._is_finished(shard):
            self._objects.complete_upload(shard.file, upload, tokens)
        if not self._is_finished(shard):
            raise LostRangesError(
                f"{self._objects.location}/{shard.file}: the upload is gone, or its parts are not those that were sent",
                "something else changed it; start the same command again: what is missing is written again",
            )

    def _is_finished(self, shard: ShardFile) -> bool:
        found = self._objects.head(shard.file)
        if found is None:
            return False
        if found.get("Metadata", {}).get(_MARK) != self._fingerprint or found["ContentLength"] != shard.size:
            raise OutputError(
                f"{self._objects.location}/{shard.file} is there already, and no run of this plan put it there",
                "name a new or empty prefix as OUTPUT",
            )
        return True

    def _upload(self, file: str) -> str | None:
        if file not in self._uploads:
            upload = (self._record(file) or {}).get("id")
            if upload is None:
                return None
            self._uploads[file] = upload
        return self._uploads[file]

    def _put_record(self, file: str, record: dict[str, Any]) -> None:
        self._records.put(_record_of(file), json.dumps(record).encode())

    def _record(self, file: str) -> dict[str, Any] | None:
        data = self._records.get(_record_of(file))
        return None if data is None else json.loads(data)


def drop_uploads(objects: S3Objects, records: Records) -> None:
    """Abort every upload that runs here have recorded, of whatever plan; others on the same names stay."""
    files = [unquote(name.removesuffix(".json")) for name in records.names(_UPLOADS)]
    there = objects.uploads(files) if files else {}

    def drop(file: str) -> None:
        record = json.loads(records.get(_record_of(file)) or b"null")
        if record is not None:
            ours = record["id"]
            for upload in there[file] if ours is None else [ours]:
                if upload not in record["others"]:
                    objects.abort_upload(file, upload)
            records.delete(_record_of(file))

    with ThreadPoolExecutor(_TOGETHER) as pool:
        list(pool.map(drop, files))


class _UploadedRange:
    """Sends full parts while the next is filled; ``commit`` waits for all of them."""

    def __init__(self, objects: S3Objects, file: str, upload: str, first_part: int, parts: Sequence[int]) -> None:
        self._objects, self._file, self._upload = objects, file, upload
        self._number = first_part
        self._sizes = list(parts)
        self._filling = bytearray()
        self._sent: list[Future[str]] = []
        self._pool = ThreadPoolExecutor(PARTS_AHEAD, thread_name_prefix="upload")
        self.retries = Retries()

    def __enter__(self) -> _UploadedRange:
        return self

    def write(self, data: memoryview) -> None:
        rest = data.cast("B") if data.nbytes else data
        while rest.nbytes:
            if not self._sizes:
                raise ValueError(f"{self._file}: {rest.nbytes} bytes past the range's end")
            room = self._sizes[0] - len(self._filling)
            self._filling += rest[:room]
            rest = rest[room:]
            if len(self._filling) == self._sizes[0]:
                self._send()

    def commit(self) -> tuple[str, ...]:
        if self._sizes:
            missing = sum(self._sizes) - len(self._filling)
            raise ValueError(f"{self._file}: {missing} bytes of the range are not written")
        return tuple(part.result() for part in self._sent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _send(self) -> None:
        if len(self._sent) >= PARTS_AHEAD:
            self._sent[-PARTS_AHEAD].result()  # memory is bounded, and a failed part ends the unit early
        self._sent.append(
            self._pool.submit(
                self._objects.upload_part, self._file, self._upload, self._number, self._filling, self.retries
            )
        )
        self._number += 1
        self._sizes.pop(0)
        self._filling = bytearray()


def _record_of(file: str) -> str:
    return f"{_UPLOADS}/{quote(file, safe='')}.json"  # directly there, also of a shard in a folder of its own
