"""Azure's blobs through adlfs: a shard's parts are blocks, and finishing it is one list of them (Put Block List).

Azure has no uploads: blocks that no list names belong to their blob, whoever sent them, and disappear after a week. An
upload is therefore the beginning of its blocks' names. The rest of a block's name is its number and the checksum of its
bytes, so that Azure's list of blocks proves what was sent.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import xxhash

from svc_dist.errors import StorageError, SvcDistError, TransientStorageError
from svc_dist.storage.base import FileIdentity, MultipartStorage, changed, complete, storage_error, too_large
from svc_dist.storage.fsspec import FsspecStorage
from svc_dist.storage.landing import Target
from svc_dist.storage.retry import Retries
from svc_dist.storage.secrets import redact

_ONE_GET = 32 << 20  # bytes that its client reads in one request; the rest it would read in small ones
_BLOB_GONE = ("BlobNotFound", "ContainerNotFound", "ResourceNotFound", "404")
_UNMET = ("ConditionNotMet", "BlobAlreadyExists", "TargetConditionNotMet", "412", "409")
_NO_BLOCKS = ("InvalidBlockList", "InvalidBlobOrBlock")
_CREDENTIALS = "check the account and its credentials (AZURE_STORAGE_*, or `az login`) and what they allow"
#: Takes the client of one blob, for asyncio.
Operation = Callable[[Any], Awaitable[Any]]


class AzureStorage(FsspecStorage, MultipartStorage):
    """The blobs under a prefix of a container."""

    conditional_writes = True
    pinned_reads = True
    copies_parts = True

    def stat(self, name: str) -> FileIdentity | None:
        found = self._properties(name)
        return None if found is None else FileIdentity(name, found.size, f"etag:{found.etag}")

    def fetch(self, file: FileIdentity, start: int, end: int, target: Target, retries: Retries) -> None:
        while target.left:
            first = start + target.done
            target.write(self._read_version(file, first, min(first + _ONE_GET, end), retries))

    def read_pinned(self, file: FileIdentity, start: int, end: int) -> bytes:
        return self._read_version(file, start, end, None) if end > start else b""

    def _read_version(self, file: FileIdentity, start: int, end: int, retries: Retries | None) -> bytes:
        condition = self._condition(file.version.removeprefix("etag:"))

        async def read(blob: Any) -> bytes:
            stream = await blob.download_blob(offset=start, length=end - start, **condition)
            data: bytes = await stream.readall()
            return data

        what = f"read bytes {start:,} to {end:,} of {file.name}"
        data: bytes | None = self._call(file.name, read, what, (*_UNMET, *_BLOB_GONE), retries)
        if data is None:
            raise changed(self.url(file.name), file, self.stat(file.name))
        return complete(data, self.url(file.name), start, end)

    def get(self, name: str) -> bytes | None:
        version = self.get_version(name)
        return None if version is None else version[0]

    def get_within(self, name: str, largest: int) -> bytes | None:
        found = self._properties(name)
        if found is not None and found.size > largest:
            raise too_large(self.url(name), found.size)
        return None if found is None else self.get(name)

    def get_version(self, name: str) -> tuple[bytes, str | None] | None:
        async def read(blob: Any) -> tuple[bytes, str]:
            stream = await blob.download_blob()
            return await stream.readall(), stream.properties.etag

        version: tuple[bytes, str] | None = self._call(name, read, f"read {name}", _BLOB_GONE)
        return version

    def put(self, name: str, data: bytes) -> None:
        self._call(name, lambda blob: blob.upload_blob(data, overwrite=True), f"write {name}")

    def put_new(self, name: str, data: bytes) -> bool:
        written = self._call(name, lambda blob: blob.upload_blob(data, overwrite=False), f"write {name}", _UNMET)
        return written is not None

    def put_over(self, name: str, data: bytes, version: str | None) -> bool:
        condition = self._condition(str(version))
        absent = (*_UNMET, *_BLOB_GONE)
        return (
            self._call(name, lambda blob: blob.upload_blob(data, overwrite=True, **condition), f"write {name}", absent)
            is not None
        )

    def age(self, name: str) -> float | None:
        """By the times in one answer, both of Azure's clock."""
        answers: list[Any] = []

        async def ask(blob: Any) -> Any:
            return await blob.get_blob_properties(raw_response_hook=answers.append)

        found = self._call(name, ask, f"look at {name}", _BLOB_GONE)
        now = next((answer.http_response.headers.get("Date") for answer in reversed(answers)), None)
        if found is None or now is None:
            return None
        from email.utils import parsedate_to_datetime

        return float((parsedate_to_datetime(now) - found.last_modified).total_seconds())

    def delete(self, name: str) -> None:
        async def remove(blob: Any) -> bool:
            await blob.delete_blob()
            return True

        self._call(name, remove, f"remove {name}", _BLOB_GONE)

    def create_upload(self, name: str, metadata: dict[str, str]) -> str:
        """Nothing is sent: the metadata, which the list of blocks takes along, is part of the id."""
        return f"{uuid.uuid4().hex[:16]}.{json.dumps(metadata, sort_keys=True)}"

    def upload_part(self, name: str, upload: str, number: int, data: bytes | memoryview, retries: Retries) -> str:
        block = f"{_prefix(upload)}-{number:05d}-{xxhash.xxh3_128_hexdigest(data)}"
        body = bytes(data)

        async def send(blob: Any) -> str:
            await blob.stage_block(block, body, length=len(body), validate_content=True)
            return block

        return str(self._call(name, send, f"write part {number} of {name}", retries=retries))

    def parts(self, name: str, upload: str) -> dict[int, list[str]] | None:
        parts: dict[int, list[str]] = {}
        for block in self._blocks(name):
            prefix, _, rest = block.partition("-")
            if prefix == _prefix(upload) and rest:
                parts.setdefault(int(rest.split("-")[0]), []).append(block)
        return parts

    def complete_upload(self, name: str, upload: str, etags: Sequence[str]) -> None:
        metadata = {_written(key): value for key, value in json.loads(upload.partition(".")[2]).items()}
        if not set(etags) <= set(self._blocks(name)):
            return

        def commit(blob: Any) -> Awaitable[Any]:
            answer: Awaitable[Any] = blob.commit_block_list(list(etags), metadata=metadata)
            return answer

        self._call(name, commit, f"finish {name}", _NO_BLOCKS)

    def abort_upload(self, name: str, upload: str) -> None:
        """Do nothing: Azure has no request for it. The blocks disappear with the blob's next list, or after a week."""

    def uploads(self, names: Iterable[str]) -> dict[str, list[str]]:
        """None that could be dropped."""
        return {name: [] for name in names}

    def metadata(self, name: str) -> tuple[int, dict[str, str]] | None:
        found = self._properties(name)
        if found is None:
            return None
        return int(found.size), {_read(key): value for key, value in (found.metadata or {}).items()}

    def translate(self, error: Exception, what: str) -> SvcDistError:
        status, kind = getattr(error, "status_code", None), type(error).__name__
        lost = kind in (
            "ServiceRequestError",
            "ServiceResponseError",
            "IncompleteReadError",
            "ServiceRequestTimeoutError",
        )
        if status is None and not lost:
            return storage_error(error, what)
        code = _codes(error)[0]
        reason = redact(str(getattr(error, "reason", None) or error).split("\n")[0])
        text = f"{what}: {code or kind}: {reason}"
        if lost or status in (408, 429) or (status is not None and status >= 500 and status != 501):
            return TransientStorageError(text)
        return StorageError(text, _CREDENTIALS if status in (401, 403) else None)

    def _blocks(self, name: str) -> list[str]:
        """The names of the blocks of a blob that are in no list yet."""

        async def ask(blob: Any) -> list[str]:
            _, uncommitted = await blob.get_block_list("uncommitted")
            return [_decoded(block.id) for block in uncommitted]

        return self._call(name, ask, f"look at the blocks of {name}", _BLOB_GONE) or []

    def _properties(self, name: str) -> Any:
        """Size, ETag and metadata of a blob; None when there is none."""
        return self._call(name, lambda blob: blob.get_blob_properties(), f"look at {name}", _BLOB_GONE)

    def _condition(self, etag: str) -> dict[str, Any]:
        """Arguments of a request for one version of a blob only."""
        from azure.core import MatchConditions

        return {"etag": etag, "match_condition": MatchConditions.IfNotModified}

    def _call(
        self,
        name: str,
        operation: Operation,
        purpose: str,
        absent: tuple[str, ...] = (),
        retries: Retries | None = None,
    ) -> Any:
        """An operation on a blob; None when the answer's code or status is one of ``absent``."""
        from fsspec.asyn import sync

        container, path, _ = self.filesystem.split_path(self.full(name))

        async def run() -> Any:
            async with self.filesystem.service_client.get_blob_client(container, path) as blob:
                return await operation(blob)

        def attempt() -> Any:
            try:
                return sync(self.filesystem.loop, run)
            except Exception as error:
                if set(_codes(error)) & set(absent):
                    return None
                raise

        return self.retrying(attempt, f"cannot {purpose} in {self.location}", retries)


def _prefix(upload: str) -> str:
    """How the names of an upload's blocks begin."""
    return upload.partition(".")[0]


def _decoded(block: str) -> str:
    """A block's name, which lists hold as it was sent or in base64."""
    if "-" in block:
        return block
    try:
        return base64.b64decode(block).decode()
    except ValueError:
        return block


def _codes(error: Exception) -> tuple[str, str]:
    """The code of Azure's refusal, such as ``BlobNotFound``, and its HTTP status; "" where there is none."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or ""), str(getattr(error, "status_code", None) or "")


def _written(key: str) -> str:
    """A name of metadata as Azure takes it: an identifier."""
    return key.replace("-", "_")


def _read(key: str) -> str:
    return key.lower().replace("_", "-")
