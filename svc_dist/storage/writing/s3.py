"""Ranges out to S3 and Azure: one multipart upload a shard, a range is its planned parts, one request finishes it.

An upload is created once and recorded before its first part, so that a resumed run sends to the same one. Before its
creation, a run records the uploads of others on the same name: any other upload that appears before ours is recorded
comes from a killed start or a repeated request, and is aborted. No other upload is touched.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict
from urllib.parse import quote, unquote

import msgspec

from svc_dist.errors import DamagedInputError, OutputError, StorageError
from svc_dist.sizes import counted
from svc_dist.storage.base import IN_PARALLEL, MultipartStorage, Storage, is_inside
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.base import PART, Buffers, LostRangesError, PartsWriter, ShardFile, ShardState

_MARK = "svc-dist-plan"  # metadata of our objects: the fingerprint of the plan they belong to
#: Parts of one range that are sent while the next one is computed.
PARTS_AHEAD = 4
_UPLOADS = "uploads"  # the folder of the records
_LARGEST_RECORD = 1 << 20  # bytes
_log = logging.getLogger("svc_dist")


class UploadRecord(TypedDict):
    """The upload of a shard: its id (None before it is created), and the uploads of others on the same name."""

    id: str | None
    others: list[str]


#: Made once, by the thread that imports this: msgspec crashes where several threads decode a type for the first time.
_DECODER = msgspec.json.Decoder(UploadRecord)


class S3Sink:
    """Writes the shards of one plan to a storage with multipart uploads."""

    memory = (PARTS_AHEAD + 1) * PART
    self_proving = True  # an ETag belongs to the bytes of a part, and a finished object has the plan's mark

    def __init__(self, storage: MultipartStorage, run_folder: Storage, fingerprint: str) -> None:
        self._storage = storage
        self._run_folder = run_folder
        self._fingerprint = fingerprint
        self._buffers = Buffers()
        if storage.copies_parts:
            self.memory = S3Sink.memory + PARTS_AHEAD * PART
        self._uploads: dict[str, str] = {}
        self._vanished: set[str] = set()  # files whose recorded upload is gone

    def prepare(self, shards: Sequence[ShardFile]) -> None:
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            records = pool.map(lambda shard: self._record(shard.file), shards)
            known = dict(zip((shard.file for shard in shards), records, strict=True))
            known |= dict.fromkeys(self._vanished & known.keys())
            missing = [shard for shard in shards if _upload_id(known[shard.file]) is None]
            finished = list(pool.map(self._is_finished, missing))
        missing = [shard for shard, done in zip(missing, finished, strict=True) if not done]
        if not missing:
            return
        files = [shard.file for shard in missing]
        before = self._storage.uploads(files)

        def begin(file: str) -> UploadRecord:
            record = known[file]
            if record is None:
                record = {"id": None, "others": sorted(before[file])}
                self._put_record(file, record)
            upload = self._storage.create_upload(file, {_MARK: self._fingerprint})
            return {"id": upload, "others": record["others"]}

        def settle(file: str, record: UploadRecord) -> None:
            for upload in now[file]:
                if upload != record["id"] and upload not in record["others"]:
                    self._storage.abort_upload(file, upload)
            self._put_record(file, record)

        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            begun = list(pool.map(begin, files))
            now = self._storage.uploads(files)
            list(pool.map(settle, files, begun))
        self._vanished -= set(files)

    def state(self, shard: ShardFile) -> ShardState | None:
        if self._is_finished(shard):
            return ShardState(finished=True)
        upload = self._upload(shard.file)
        tokens = None if upload is None else self._storage.parts(shard.file, upload)
        if tokens is None:
            if upload is not None:  # dropped by a lifecycle rule, or by hand: the next start creates another
                self._uploads.pop(shard.file, None)
                self._vanished.add(shard.file)
            return None
        return ShardState(finished=False, tokens=tokens)

    def write_range(self, shard: ShardFile, start: int, end: int, first_part: int, parts: Sequence[int]) -> PartsWriter:
        upload = self._upload(shard.file)
        if upload is None:
            raise StorageError(
                f"{self._run_folder.location} has no upload of {shard.file}",
                "another program removed it; run the same command again to resume",
            )

        def send(number: int, data: memoryview, retries: Retries) -> str:
            return self._storage.upload_part(shard.file, upload, number, data, retries)

        return PartsWriter(send, shard.file, first_part, parts, PARTS_AHEAD, self._buffers)

    def digest(self, shard: ShardFile, start: int, end: int, tokens: Sequence[str]) -> str:
        raise NotImplementedError

    def finish(self, shard: ShardFile, tokens: Sequence[str]) -> None:
        upload = self._upload(shard.file)
        if upload is not None and not self._is_finished(shard):
            self._storage.complete_upload(shard.file, upload, tokens)
        if not self._is_finished(shard):
            raise LostRangesError(
                f"{self._storage.url(shard.file)}: the upload is gone, or its parts are not those that were sent",
                "another program changed it; run the same command again to write the missing ranges",
            )

    def _is_finished(self, shard: ShardFile) -> bool:
        finished = self._storage.metadata(shard.file)
        if finished is None:
            return False
        size, metadata = finished
        if metadata.get(_MARK) != self._fingerprint or size != shard.size:
            raise OutputError(
                f"{self._storage.url(shard.file)} already exists, and no run of this plan wrote it",
                "name a new or empty prefix as OUTPUT",
            )
        return True

    def _upload(self, file: str) -> str | None:
        if file not in self._uploads and (upload := _upload_id(self._record(file))) is not None:
            self._uploads[file] = upload
        return self._uploads.get(file)

    def _put_record(self, file: str, record: UploadRecord) -> None:
        self._run_folder.put(_record_of(file), json.dumps(record).encode())

    def _record(self, file: str) -> UploadRecord | None:
        return _upload_record(self._run_folder, file)


def _upload_id(record: UploadRecord | None) -> str | None:
    return None if record is None else record["id"]


def drop_uploads(storage: MultipartStorage, run_folder: Storage) -> None:
    """Abort every upload that runs with this run folder have recorded, of any plan; others on the same names stay."""
    files = [unquote(name.removesuffix(".json")) for name in run_folder.names(_UPLOADS)]
    files = [file for file in files if is_inside(file)]
    uploads = storage.uploads(files) if files else {}

    def drop(file: str) -> None:
        try:
            record = _upload_record(run_folder, file)
        except DamagedInputError:
            record = None
            if uploads[file]:
                _log.warning(
                    f"warning: {storage.url(file)}: the record of its upload is damaged, so "
                    f"{counted(len(uploads[file]), 'upload')} in progress stay: abort them by hand if they are yours"
                )
        if record is not None:
            for upload in uploads[file] if record["id"] is None else [record["id"]]:
                if upload not in record["others"]:
                    storage.abort_upload(file, upload)
            run_folder.delete(_record_of(file))

    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        list(pool.map(drop, files))


def _upload_record(run_folder: Storage, file: str) -> UploadRecord | None:
    """The record of a file's upload; None where there is none. Raises DamagedInputError."""
    data = run_folder.get_within(_record_of(file), _LARGEST_RECORD)
    try:
        return None if data is None else _DECODER.decode(data)
    except (ValueError, RecursionError) as error:
        raise DamagedInputError(
            f"{run_folder.url(_record_of(file))} cannot be read: {error}", "start over with --restart"
        ) from None


def _record_of(file: str) -> str:
    return f"{_UPLOADS}/{quote(file, safe='')}.json"  # without sub-folders, also for a shard in a folder
