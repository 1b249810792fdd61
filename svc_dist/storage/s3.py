"""The S3 operations that the rest builds on, each with a time limit, tried again while that may help.

s3fs brings the client: credentials, endpoint, connections. The calls go to the client itself, because of what lies
between: s3fs retries on its own, drops parameters that it does not know, and leaves some failures without an end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from svc_dist.errors import RecipeError, StorageError, SvcDistError, TransientStorageError
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import FileIdentity, complete, storage_error, trimmed, write_all
from svc_dist.storage.fsspec import changed
from svc_dist.storage.retry import Retries, retrying, translated
from svc_dist.storage.secrets import learn, redact

_CHUNK = 1 << 18  # bytes of a body that are in hand at once
_SLOWEST = 1 << 17  # bytes a second below which a request is given up; one that stands still is given up sooner
_NOT_FOUND = ("NoSuchKey", "404", "NotFound")
_NO_UPLOAD = ("NoSuchUpload", "404", "NotFound")
_CONDITION = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
#: A refused HEAD says no more than its status: its answer has no body.
_BARE = ("400", "401", "403")
#: Refusals that may pass whatever their HTTP status says: cut off or garbled on the way, or too many.
_PASSING = {
    "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException",
    "RequestThrottled", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
}  # fmt: skip
_HINTS = {
    "NoSuchBucket": "check the bucket's name and the endpoint",
    "NoSuchKey": "something else removed it: put it back, and start the same command again",
    "ExpiredToken": "renew the credentials and start the same command again",
    "InvalidToken": "renew the credentials and start the same command again",
    "RequestTimeTooSkewed": "set this machine's clock",
    "PermanentRedirect": "the bucket lies in another region: set AWS_DEFAULT_REGION",
    "AuthorizationHeaderMalformed": "the bucket lies in another region: set AWS_DEFAULT_REGION",
}
_CREDENTIALS = "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, the machine's role) and what they allow"


@dataclass(frozen=True)
class Part:
    """A part of an upload that the store holds."""

    number: int
    size: int
    etag: str


class S3Objects:
    """The objects under a prefix of a bucket."""

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        self.location = trimmed(location)
        self._access = access
        self._fs, path = access.filesystem(self.location)
        self.bucket, _, root = path.partition("/")
        if not self.bucket:
            raise RecipeError(f"{self.location} names no bucket", "write it like s3://bucket/folder")
        self._root = root.strip("/")

    def key(self, name: str) -> str:
        return "/".join(part for part in (self._root, name) if part)

    # Reading

    def names(self, prefix: str = "") -> list[str]:
        folder = self.key(prefix.strip("/"))
        folder = f"{folder}/" if folder else ""
        return [key[len(folder) :] for key in self._list(folder, "/") if key != folder]

    def walk(self, prefix: str) -> list[str]:
        folder = self.key(prefix.strip("/")) + "/"
        cut = len(self._root) + 1 if self._root else 0
        return [key[cut:] for key in self._list(folder, None) if key != folder]

    def identity(self, name: str) -> FileIdentity | None:
        found = self.head(name)
        return None if found is None else FileIdentity(name, found["ContentLength"], f"etag:{found['ETag']}")

    def head(self, name: str) -> dict[str, Any] | None:
        """What the store says of an object; None when there is none."""
        found: dict[str, Any] | None = self._call(
            "head_object", f"look at {name}", {"Key": self.key(name)}, absent=_NOT_FOUND
        )
        return found

    def read(self, name: str, start: int = 0, end: int | None = None, of: FileIdentity | None = None) -> bytes:
        parameters = {"Key": self.key(name)}
        if of is not None:
            parameters["IfMatch"] = of.version.removeprefix("etag:")
        if end is not None:
            if end <= start:
                return b""
            parameters["Range"] = f"bytes={start}-{end - 1}"
        elif start:
            parameters["Range"] = f"bytes={start}-"
        absent = () if of is None else _CONDITION
        data: bytes | None = self._call("get_object", f"read {name}", parameters, consume=_read_all, absent=absent)
        if data is None:
            assert of is not None
            raise changed(f"{self.location}/{name}", of, self.identity(name))
        return complete(data, f"{self.location}/{name}", start, end)

    def fetch(
        self, planned: FileIdentity, start: int, end: int, descriptor: int, offset: int, retries: Retries
    ) -> None:
        what = f"read bytes {start:,} to {end:,} of {planned.name}"
        failed = f"cannot {what} in {self.location} (get_object)"
        etag = planned.version.removeprefix("etag:")

        async def consume(response: dict[str, Any]) -> bool:
            if response["ETag"] != etag:  # a store that does not know If-Match, or an answer garbled on the way
                raise TransientStorageError(f"{failed}: the answer's ETag is {response['ETag']}, not {etag}")
            done = 0
            async with response["Body"] as body:
                async for chunk in body.iter_chunks(_CHUNK):
                    if done + len(chunk) > end - start:
                        raise TransientStorageError(f"{failed}: the answer is too long")
                    write_all(descriptor, chunk, offset + done)
                    done += len(chunk)
            if done != end - start:
                raise TransientStorageError(f"{failed}: only {done:,} bytes came")
            return True

        parameters = {"Key": self.key(planned.name), "Range": f"bytes={start}-{end - 1}", "IfMatch": etag}
        try:
            done = self._call(
                "get_object", what, parameters, consume=consume, absent=_CONDITION, size=end - start, retries=retries
            )
        except StorageError:
            found = None
            with contextlib.suppress(StorageError):  # what failed first says more
                found = self.identity(planned.name)
            if found is not None and found != planned:  # else the storage is at fault
                raise changed(f"{self.location}/{planned.name}", planned, found) from None
            raise
        if done is None:
            raise changed(f"{self.location}/{planned.name}", planned, self.identity(planned.name))

    def require_planned(self, planned: FileIdentity) -> None:
        """Nothing: every request of ``fetch`` is for the planned object only."""

    # Whole objects

    def get(self, name: str) -> bytes | None:
        data: bytes | None = self._call(
            "get_object", f"read {name}", {"Key": self.key(name)}, consume=_read_all, absent=_NOT_FOUND
        )
        return data

    def put(self, name: str, data: bytes) -> None:
        self._call("put_object", f"write {name}", {"Key": self.key(name), "Body": data})

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object that is not there yet; False when there is one. A store without conditions overwrites."""
        return self._put_if(name, data, {"IfNoneMatch": "*"})

    def get_version(self, name: str) -> tuple[bytes, str | None] | None:
        async def consume(response: dict[str, Any]) -> tuple[bytes, str | None]:
            return await _read_all(response), str(response["ETag"])

        found: tuple[bytes, str | None] | None = self._call(
            "get_object", f"read {name}", {"Key": self.key(name)}, consume=consume, absent=_NOT_FOUND
        )
        return found

    def put_over(self, name: str, data: bytes, version: str | None) -> bool:
        """Write over this version of an object; False when there is another. A store without conditions overwrites."""
        return self._put_if(name, data, {"IfMatch": str(version)})

    def _put_if(self, name: str, data: bytes, condition: dict[str, str]) -> bool:
        parameters = {"Key": self.key(name), "Body": data, **condition}
        absent = (*_CONDITION, *_NOT_FOUND)
        try:
            return self._call("put_object", f"write {name}", parameters, absent=absent) is not None
        except StorageError as error:
            if "NotImplemented" not in error.message and "InvalidArgument" not in error.message:
                raise
        self.put(name, data)
        return True

    def age(self, name: str) -> float | None:
        found = self.head(name)
        if found is None:
            return None
        now = found["ResponseMetadata"]["HTTPHeaders"].get("date")
        if now is None:
            return None
        return float((parsedate_to_datetime(now) - found["LastModified"]).total_seconds())

    def delete(self, name: str) -> None:
        self._call("delete_object", f"remove {name}", {"Key": self.key(name)}, absent=_NOT_FOUND)

    # Multipart uploads

    def create_upload(self, name: str, metadata: dict[str, str]) -> str:
        """Begin a multipart upload of an object. Returns its id."""
        begun = self._call("create_multipart_upload", f"write {name}", {"Key": self.key(name), "Metadata": metadata})
        return str(begun["UploadId"])

    def upload_part(self, name: str, upload: str, number: int, data: bytearray, retries: Retries) -> str:
        """Send a part, again if need be (the last one counts). Returns its ETag."""
        parameters = {"Key": self.key(name), "UploadId": upload, "PartNumber": number, "Body": data}
        what = f"write part {number} of {name}"
        sent = self._call("upload_part", what, parameters, size=len(data), retries=retries)
        return str(sent["ETag"])

    def parts(self, name: str, upload: str) -> list[Part] | None:
        """The parts that the store holds of an upload, by number; None when there is no such upload."""
        found: list[Part] = []
        parameters: dict[str, Any] = {"Key": self.key(name), "UploadId": upload}
        while True:
            page = self._call("list_parts", f"look at the upload of {name}", parameters, absent=_NO_UPLOAD)
            if page is None:
                return None
            found += [Part(int(part["PartNumber"]), int(part["Size"]), part["ETag"]) for part in page.get("Parts", [])]
            if not page.get("IsTruncated"):
                return found
            parameters["PartNumberMarker"] = int(page["NextPartNumberMarker"])

    def complete_upload(self, name: str, upload: str, etags: Sequence[str]) -> bool:
        """Make an object of parts 1, 2, ... with these ETags. False when the upload has no such parts, or is gone."""
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        parameters = {"Key": self.key(name), "UploadId": upload, "MultipartUpload": {"Parts": listed}}
        timeout = max(600.0, self._access.timeout)  # a store may take minutes to put a large object together
        absent = (*_NO_UPLOAD, "InvalidPart")
        done = self._call("complete_multipart_upload", f"finish {name}", parameters, absent=absent, timeout=timeout)
        return done is not None

    def abort_upload(self, name: str, upload: str) -> None:
        """Drop an upload with its parts; fine when there is none."""
        parameters = {"Key": self.key(name), "UploadId": upload}
        self._call("abort_multipart_upload", f"drop the upload of {name}", parameters, absent=_NO_UPLOAD)

    def uploads(self, names: Iterable[str]) -> dict[str, list[str]]:
        """The ids of uploads in flight for each of these objects, whoever began them."""
        wanted = {self.key(name): name for name in names}
        found: dict[str, list[str]] = {name: [] for name in wanted.values()}
        parameters: dict[str, Any] = {"Prefix": f"{self._root}/" if self._root else ""}
        while True:
            page = self._call("list_multipart_uploads", "list uploads", parameters)
            for entry in page.get("Uploads", []):
                if entry["Key"] in wanted:
                    found[wanted[entry["Key"]]].append(entry["UploadId"])
            if not page.get("IsTruncated"):
                return found
            parameters["KeyMarker"] = page["NextKeyMarker"]
            parameters["UploadIdMarker"] = page.get("NextUploadIdMarker", "")

    # How

    def _list(self, folder: str, delimiter: str | None) -> list[str]:
        parameters: dict[str, Any] = {"Prefix": folder}
        if delimiter:
            parameters["Delimiter"] = delimiter
        keys: list[str] = []
        while True:
            page = self._call("list_objects_v2", "list the prefix", parameters)
            keys += [entry["Key"] for entry in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                return sorted(keys)
            parameters["ContinuationToken"] = page["NextContinuationToken"]

    def _call(
        self,
        operation: str,
        purpose: str,
        parameters: dict[str, Any],
        *,
        consume: Callable[[dict[str, Any]], Awaitable[Any]] | None = None,
        absent: tuple[str, ...] = (),
        timeout: float | None = None,
        size: int = 0,
        retries: Retries | None = None,
    ) -> Any:
        """One operation on the bucket, which moves ``size`` bytes; None when the answer's code is one of ``absent``."""
        import fsspec
        from botocore.exceptions import ClientError

        what = f"cannot {purpose} in {self.location} ({operation})"
        limit = (timeout or self._access.timeout) + size / _SLOWEST

        async def call() -> Any:
            await self._fs.set_session()
            client = await self._fs.get_s3(self.bucket)
            try:
                response = await getattr(client, operation)(Bucket=self.bucket, **parameters)
            except ClientError as error:
                if operation == "head_object" and _code(error) in _BARE:  # the answer to a GET of one byte says why
                    (await client.get_object(Bucket=self.bucket, Range="bytes=0-0", **parameters))["Body"].close()
                raise
            return response if consume is None else await consume(response)

        async def bounded() -> Any:
            return await asyncio.wait_for(call(), limit)

        def attempt() -> Any:
            try:
                return fsspec.asyn.sync(self._fs.loop, bounded)
            except ClientError as error:
                if _code(error) in absent:
                    return None
                raise

        def ours(error: Exception) -> SvcDistError:
            learn(_credentials(self._fs))
            return s3_error(error, what)

        return retrying(translated(attempt, ours), self._access.deadline, retries)


async def _read_all(response: dict[str, Any]) -> bytes:
    async with response["Body"] as body:
        data: bytes = await body.read()
    return data


def s3_error(error: Exception, what: str) -> SvcDistError:
    """Our error for whatever the client raises, transient or for good."""
    import aiohttp
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, SvcDistError):
        return error
    if isinstance(error, exceptions.ClientError):
        code = _code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        message = redact(str(error.response.get("Error", {}).get("Message") or error))
        text = f"{what}: {code}: {message}" if code != message else f"{what}: {code}"
        if (status >= 500 and status != 501) or status == 429 or code in _PASSING:
            return TransientStorageError(text)
        hint = _HINTS.get(code, _CREDENTIALS if status in (401, 403) else None)
        return StorageError(text, hint)
    text = f"{what}: {redact(f'{type(error).__name__}: {error}'.rstrip(': '))}"
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return StorageError(text, f"{_CREDENTIALS}; for a public bucket say anonymous")
    if isinstance(error, exceptions.ProfileNotFound | exceptions.CredentialRetrievalError):
        return StorageError(text, _CREDENTIALS)
    if isinstance(error, ValueError) and "endpoint" in text:  # of AWS_ENDPOINT_URL or the profile
        return StorageError(text, "write it like https://host:9000")
    if isinstance(error, exceptions.ParamValidationError):
        return StorageError(text, "check the bucket's name and the path")
    if isinstance(error, exceptions.SSLError):
        return StorageError(text, "check the endpoint and the certificates of this machine")
    passing = (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.ResponseStreamingError,
        exceptions.IncompleteReadError,
        ResponseParserError,
        aiohttp.ClientError,
        TimeoutError,
        ConnectionError,
    )
    if isinstance(error, exceptions.EndpointConnectionError):
        return TransientStorageError(text, "check the endpoint and the network")
    if isinstance(error, passing):
        return TransientStorageError(text)
    if isinstance(error, exceptions.BotoCoreError):
        return StorageError(text)
    return storage_error(error, what)


def _credentials(filesystem: Any) -> list[str]:
    """What a file system's client signs with, wherever it has it from."""
    signer = getattr(getattr(filesystem, "_s3", None), "_request_signer", None)
    held = vars(getattr(signer, "_credentials", None) or object)
    return [
        value
        for name, value in held.items()
        if name.strip("_") in ("access_key", "secret_key", "token") and isinstance(value, str)
    ]


def _code(error: Exception) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
