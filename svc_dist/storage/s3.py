"""The objects under a prefix of an S3 bucket: every request has a time limit, and transient failures are retried."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

from svc_dist.errors import RecipeError, StorageError, SvcDistError, TransientStorageError
from svc_dist.storage.access import DEFAULT_ACCESS, Access, check_options
from svc_dist.storage.base import FileIdentity, Storage, changed, complete, trimmed, write_all
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3_client import Pace, PacedBody, S3Client, connect, signing_secrets
from svc_dist.storage.s3_errors import CONDITION_FAILED, NOT_FOUND, WITHOUT_BODY, error_code, s3_error
from svc_dist.storage.s3_multipart import S3Multipart
from svc_dist.storage.secrets import learn, refuse_credentials

_CHUNK = 1 << 18  # bytes of a body that are in memory at the same time
_SMALL = 1 << 20  # a larger body is sent in blocks

#: Takes an answer, and the clock that its body is read by.
Consumer = Callable[[dict[str, Any], Pace], Any]


class S3Storage(Storage):
    """The objects under a prefix of a bucket. Raises RecipeError for a URL without a bucket."""

    conditional_writes = True
    pinned_reads = True

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        super().__init__(trimmed(location), access)
        refuse_credentials(self.location)
        protocol, _, path = self.location.partition("://")
        self.bucket, _, root = path.partition("/")
        if not self.bucket:
            raise RecipeError(f"{self.location} names no bucket", "write it like s3://bucket/folder")
        self.root = root.strip("/")
        self._options = access.options_of(self.location)
        check_options(protocol, self._options)

    @property
    def multipart(self) -> S3Multipart:  # type: ignore[override]
        return S3Multipart(self)

    def key(self, name: str) -> str:
        """An object's key in the bucket."""
        return "/".join(part for part in (self.root, name) if part)

    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        prefix = self.key(folder.strip("/"))
        parameters = {"Prefix": f"{prefix}/" if prefix else "", **({} if recursive else {"Delimiter": "/"})}
        keys: list[str] = []
        while True:
            page = self.call("list_objects_v2", "list the prefix", parameters)
            keys += [entry["Key"] for entry in page.get("Contents", []) if entry["Key"] != parameters["Prefix"]]
            if not page.get("IsTruncated"):
                return sorted(key[len(parameters["Prefix"]) :] for key in keys)
            parameters["ContinuationToken"] = page["NextContinuationToken"]

    def stat(self, name: str) -> FileIdentity | None:
        head = self.head(name)
        return None if head is None else FileIdentity(name, head["ContentLength"], f"etag:{head['ETag']}")

    def head(self, name: str) -> dict[str, Any] | None:
        """The store's answer to HEAD of an object; None when there is none."""
        answer: dict[str, Any] | None = self.call(
            "head_object", f"look at {name}", {"Key": self.key(name)}, absent=NOT_FOUND
        )
        return answer

    def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        of: FileIdentity | None = None,
        retries: Retries | None = None,
    ) -> bytes:
        parameters = {"Key": self.key(name)}
        if of is not None:
            parameters["IfMatch"] = of.version.removeprefix("etag:")
        if end is not None:
            if end <= start:
                return b""
            parameters["Range"] = f"bytes={start}-{end - 1}"
        elif start:
            parameters["Range"] = f"bytes={start}-"
        absent = () if of is None else CONDITION_FAILED
        data: bytes | None = self.call(
            "get_object", f"read {name}", parameters, consume=_body, absent=absent, retries=retries
        )
        if data is None:
            assert of is not None
            raise changed(self.url(name), of, self.stat(name))
        return complete(data, self.url(name), start, end)

    def fetch(self, file: FileIdentity, start: int, end: int, descriptor: int, offset: int, retries: Retries) -> None:
        what = f"read bytes {start:,} to {end:,} of {file.name}"
        failed = f"cannot {what} in {self.location} (get_object)"
        etag = file.version.removeprefix("etag:")

        def consume(answer: dict[str, Any], pace: Pace) -> bool:
            if answer["ETag"] != etag:  # a store that does not know If-Match, or an answer garbled on the way
                raise TransientStorageError(f"{failed}: the answer's ETag is {answer['ETag']}, not {etag}")
            done = 0
            for chunk in _chunks(answer, pace):
                if done + len(chunk) > end - start:
                    raise TransientStorageError(f"{failed}: the answer is too long")
                write_all(descriptor, chunk, offset + done)
                done += len(chunk)
            if done != end - start:
                raise TransientStorageError(f"{failed}: only {done:,} bytes came")
            return True

        parameters = {"Key": self.key(file.name), "Range": f"bytes={start}-{end - 1}", "IfMatch": etag}
        try:
            done = self.call(
                "get_object",
                what,
                parameters,
                consume=consume,
                absent=CONDITION_FAILED,
                size=end - start,
                retries=retries,
            )
        except StorageError:
            current = None
            with contextlib.suppress(StorageError):  # what failed first says more
                current = self.stat(file.name)
            if current is not None and current != file:  # else the storage is at fault
                raise changed(self.url(file.name), file, current) from None
            raise
        if done is None:
            raise changed(self.url(file.name), file, self.stat(file.name))

    def get(self, name: str) -> bytes | None:
        version = self.get_version(name)
        return None if version is None else version[0]

    def get_version(self, name: str) -> tuple[bytes, str | None] | None:
        def consume(answer: dict[str, Any], pace: Pace) -> tuple[bytes, str | None]:
            return _body(answer, pace), str(answer["ETag"])

        version: tuple[bytes, str | None] | None = self.call(
            "get_object", f"read {name}", {"Key": self.key(name)}, consume=consume, absent=NOT_FOUND
        )
        return version

    def put(self, name: str, data: bytes) -> None:
        self.call("put_object", f"write {name}", {"Key": self.key(name), "Body": data})

    def put_new(self, name: str, data: bytes) -> bool:
        return self._put_if(name, data, {"IfNoneMatch": "*"})

    def put_over(self, name: str, data: bytes, version: str | None) -> bool:
        return self._put_if(name, data, {"IfMatch": str(version)})

    def _put_if(self, name: str, data: bytes, condition: dict[str, str]) -> bool:
        """Write under a condition; a store that has no conditional writes overwrites."""
        parameters = {"Key": self.key(name), "Body": data, **condition}
        absent = (*CONDITION_FAILED, *NOT_FOUND)
        try:
            return self.call("put_object", f"write {name}", parameters, absent=absent) is not None
        except StorageError as error:
            if "NotImplemented" not in error.message and "InvalidArgument" not in error.message:
                raise
        self.put(name, data)
        return True

    def age(self, name: str) -> float | None:
        head = self.head(name)
        if head is None:
            return None
        now = head["ResponseMetadata"]["HTTPHeaders"].get("date")
        if now is None:
            return None
        return float((parsedate_to_datetime(now) - head["LastModified"]).total_seconds())

    def delete(self, name: str) -> None:
        self.call("delete_object", f"remove {name}", {"Key": self.key(name)}, absent=NOT_FOUND)

    def call(
        self,
        operation: str,
        purpose: str,
        parameters: dict[str, Any],
        *,
        consume: Consumer | None = None,
        absent: tuple[str, ...] = (),
        timeout: float | None = None,
        size: int = 0,
        retries: Retries | None = None,
    ) -> Any:
        """One operation on the bucket, as botocore names it; None when the answer's code is one of ``absent``.

        ``consume``: what is made of an answer with a body, of ``size`` bytes where that is known.
        """
        from botocore.exceptions import ClientError

        timeout = timeout or self.access.timeout

        def attempt() -> Any:
            client = connect(self._options, timeout)
            body = parameters.get("Body", b"")
            pace = Pace(timeout, max(size, len(body)))
            arguments = {"Bucket": self.bucket, **parameters}
            if len(body) > _SMALL:
                arguments["Body"] = PacedBody(body, pace)
            try:
                answer = _request(client, operation, arguments)
            except ClientError as error:
                if error_code(error) in absent:
                    return None
                raise
            return answer if consume is None else consume(answer, pace)

        return self.retrying(attempt, f"cannot {purpose} in {self.location} ({operation})", retries)

    def translate(self, error: Exception, what: str) -> SvcDistError:
        learn(signing_secrets())
        return s3_error(error, what)


def _request(client: S3Client, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from botocore.exceptions import ClientError

    try:
        return client.call(operation, arguments)
    except ClientError as error:
        if operation == "head_object" and error_code(error) in WITHOUT_BODY:  # the answer to a GET of one byte says why
            client.call("get_object", {**arguments, "Range": "bytes=0-0"})["Body"].close()
        raise


def _chunks(answer: dict[str, Any], pace: Pace) -> Any:
    """The body of an answer as it comes, in pieces. Raises TimeoutError when it comes too slowly."""
    with answer["Body"] as body:  # urllib3's response, which can hand out what is there already
        read, done = getattr(body, "read1", body.read), 0
        while chunk := read(_CHUNK):
            done += len(chunk)
            pace.check(done)
            yield chunk


def _body(answer: dict[str, Any], pace: Pace) -> bytes:
    """The whole body of an answer."""
    data = b"".join(_chunks(answer, pace))
    expected = answer.get("ContentLength", len(data))
    if len(data) != expected:
        raise ConnectionError(f"only {len(data):,} of {expected:,} bytes came")
    return data
