"""The objects under a prefix of an S3 bucket: every request has a time limit, and transient failures are retried."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from os.path import commonprefix
from typing import Any

from svc_dist.errors import RecipeError, StorageError, SvcDistError, TransientStorageError
from svc_dist.storage.access import DEFAULT_ACCESS, Access, check_options
from svc_dist.storage.base import IN_PARALLEL, FileIdentity, MultipartStorage, changed, complete, too_large
from svc_dist.storage.landing import Target
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3.bodies import Pace, PacedBody, read_body, receive_version
from svc_dist.storage.s3.client import connect, limiter_of, seconds_of_retries, signing_secrets
from svc_dist.storage.s3.errors import CONDITION_FAILED, NO_UPLOAD, NOT_FOUND, error_code, is_throttled, s3_error
from svc_dist.storage.secrets import learn, refuse_credentials

_COMPLETING = 600.0  # seconds: a store may take minutes to put a large object together
_BATCH = 1000  # objects that one request may remove
_SMALL = 1 << 20  # a larger body is sent in blocks

#: Takes an answer, and the clock that its body is read by.
Consumer = Callable[[dict[str, Any], Pace], Any]


class S3Storage(MultipartStorage):
    """The objects under a prefix of a bucket. Raises RecipeError for a URL without a bucket."""

    conditional_writes = True
    pinned_reads = True

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        super().__init__(location, access)
        refuse_credentials(self.location)
        protocol, _, path = self.location.partition("://")
        self.bucket, _, root = path.partition("/")
        if not self.bucket:
            raise RecipeError(f"{self.location} names no bucket", "write it like s3://bucket/folder")
        self.root = root.strip("/")
        self._options = access.options_of(self.location)
        check_options(protocol, self._options)

    def key(self, name: str) -> str:
        """An object's key in the bucket."""
        return "/".join(part for part in (self.root, name) if part)

    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        return self._names(folder, {} if recursive else {"Delimiter": "/"})

    def existing(self, folder: str, names: Collection[str]) -> set[str]:
        start = commonprefix(list(names))  # noqa: RUF071
        return set(self._names(folder, {}, start)).intersection(names) if names else set()

    def _names(self, folder: str, parameters: dict[str, str], start: str = "") -> list[str]:
        """The names in a folder that begin with ``start``, sorted."""
        prefix = f"{key}/" if (key := self.key(folder.strip("/"))) else ""
        pages = self._listing({**parameters, "Prefix": f"{prefix}{start}"})
        keys = (entry["Key"] for page in pages for entry in page.get("Contents", []))
        return sorted(key[len(prefix) :] for key in keys if key != prefix)

    def folders(self) -> list[str]:
        pages = self._listing({"Prefix": (prefix := f"{self.root}/" if self.root else ""), "Delimiter": "/"})
        found = (one["Prefix"] for page in pages for one in page.get("CommonPrefixes", []))
        return sorted(one[len(prefix) :].strip("/") for one in found)

    def _listing(self, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The store's answers to a listing, page by page."""
        yield (page := self.call("list_objects_v2", "list the prefix", parameters))
        while page.get("IsTruncated"):
            more = {**parameters, "ContinuationToken": page["NextContinuationToken"]}
            yield (page := self.call("list_objects_v2", "list the prefix", more))

    def stat(self, name: str) -> FileIdentity | None:
        head = self._head(name)
        return None if head is None else FileIdentity(name, head["ContentLength"], f"etag:{head['ETag']}")

    def _head(self, name: str) -> dict[str, Any] | None:
        """The store's answer to HEAD of an object; None when there is none."""
        parameters = {"Key": self.key(name)}
        answer: dict[str, Any] | None = self.call("head_object", f"look at {name}", parameters, absent=NOT_FOUND)
        return answer

    def read(self, name: str, start: int = 0, end: int | None = None, retries: Retries | None = None) -> bytes:
        if end is not None and end <= start:
            return b""
        parameters = {"Key": self.key(name)}
        if start or end is not None:
            parameters["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        data: bytes = self.call("get_object", f"read {name}", parameters, consume=read_body, retries=retries)
        return complete(data, self.url(name), start, end)

    def read_pinned(self, file: FileIdentity, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        what, url = f"read {file.name}", self.url(file.name)
        parameters = {"Key": self.key(file.name), "IfMatch": file.version.removeprefix("etag:")}
        parameters["Range"] = f"bytes={start}-{end - 1}"
        data: bytes | None = self.call("get_object", what, parameters, consume=read_body, absent=CONDITION_FAILED)
        if data is None:
            raise changed(url, file, self.stat(file.name))
        return complete(data, url, start, end)

    def fetch(self, file: FileIdentity, start: int, end: int, target: Target, retries: Retries) -> None:
        what = f"read bytes {start:,} to {end:,} of {file.name}"
        failed = f"cannot {what} in {self.location} (get_object)"
        etag = file.version.removeprefix("etag:")

        def parameters() -> dict[str, Any]:  # for the bytes that are missing: what an attempt has brought stays
            return {"Key": self.key(file.name), "Range": f"bytes={start + target.done}-{end - 1}", "IfMatch": etag}

        try:
            done = self.call(
                "get_object", what, parameters, absent=CONDITION_FAILED, size=end - start, retries=retries,
                consume=lambda answer, pace: receive_version(answer, target, pace, etag, failed),
            )  # fmt: skip
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

    def get_within(self, name: str, largest: int) -> bytes | None:
        def consume(answer: dict[str, Any], pace: Pace) -> bytes:
            if answer["ContentLength"] > largest:
                raise too_large(self.url(name), answer["ContentLength"])
            return read_body(answer, pace)

        what, key = f"read {name}", {"Key": self.key(name)}
        data: bytes | None = self.call("get_object", what, key, consume=consume, absent=NOT_FOUND)
        return data

    def get_version(self, name: str) -> tuple[bytes, str | None] | None:
        def consume(answer: dict[str, Any], pace: Pace) -> tuple[bytes, str | None]:
            return read_body(answer, pace), str(answer["ETag"])

        what, key = f"read {name}", {"Key": self.key(name)}
        version: tuple[bytes, str] | None = self.call("get_object", what, key, consume=consume, absent=NOT_FOUND)
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
        head = self._head(name)
        now = None if head is None else head["ResponseMetadata"]["HTTPHeaders"].get("date")
        if head is None or now is None:
            return None
        return float((parsedate_to_datetime(now) - head["LastModified"]).total_seconds())

    def delete(self, name: str) -> None:
        self.call("delete_object", f"remove {name}", {"Key": self.key(name)}, absent=NOT_FOUND)

    def clear(self, keep: Collection[str] = ()) -> None:
        """Many objects in requests of a thousand, where the store knows those; what is left then one by one."""
        names = [name for name in self.names(recursive=True) if name not in keep]
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            if len(names) > _BATCH:
                batches = [names[first : first + _BATCH] for first in range(0, len(names), _BATCH)]
                names = [name for left in pool.map(self._delete_batch, batches) for name in left]
            list(pool.map(self.delete, names))

    def _delete_batch(self, names: Sequence[str]) -> Sequence[str]:
        """Remove objects by one request. Returns those that may still be there."""
        name_of = {self.key(name): name for name in names}
        request = {"Delete": {"Objects": [{"Key": key} for key in name_of], "Quiet": True}}
        try:
            answer = self.call("delete_objects", f"remove {len(names)} objects", request)
        except TransientStorageError:
            raise
        except StorageError:
            return names
        return [name_of[entry["Key"]] for entry in answer.get("Errors", []) if entry["Key"] in name_of]

    def create_upload(self, name: str, metadata: dict[str, str]) -> str:
        parameters = {"Key": self.key(name), "Metadata": metadata}
        return str(self.call("create_multipart_upload", f"write {name}", parameters)["UploadId"])

    def upload_part(self, name: str, upload: str, number: int, data: bytes | memoryview, retries: Retries) -> str:
        parameters = {"Key": self.key(name), "UploadId": upload, "PartNumber": number, "Body": data}
        what, size = f"write part {number} of {name}", len(data)
        return str(self.call("upload_part", what, parameters, size=size, retries=retries)["ETag"])

    def parts(self, name: str, upload: str) -> dict[int, list[str]] | None:
        parts: dict[int, list[str]] = {}
        parameters: dict[str, Any] = {"Key": self.key(name), "UploadId": upload}
        while True:
            page = self.call("list_parts", f"look at the upload of {name}", parameters, absent=NO_UPLOAD)
            if page is None:
                return None
            for entry in page.get("Parts", []):  # some stores list a part once for every time that it was sent
                parts.setdefault(int(entry["PartNumber"]), []).append(entry["ETag"])
            if not page.get("IsTruncated"):
                return parts
            parameters["PartNumberMarker"] = int(page["NextPartNumberMarker"])

    def complete_upload(self, name: str, upload: str, etags: Sequence[str]) -> None:
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        parameters = {"Key": self.key(name), "UploadId": upload, "MultipartUpload": {"Parts": listed}}
        absent, timeout = (*NO_UPLOAD, "InvalidPart"), max(_COMPLETING, self.access.timeout)
        self.call("complete_multipart_upload", f"finish {name}", parameters, absent=absent, timeout=timeout)

    def abort_upload(self, name: str, upload: str) -> None:
        parameters = {"Key": self.key(name), "UploadId": upload}
        self.call("abort_multipart_upload", f"drop the upload of {name}", parameters, absent=NO_UPLOAD)

    def uploads(self, names: Iterable[str]) -> dict[str, list[str]]:
        name_of = {self.key(name): name for name in names}
        uploads: dict[str, list[str]] = {name: [] for name in name_of.values()}
        parameters: dict[str, Any] = {"Prefix": f"{self.root}/" if self.root else ""}
        while True:
            page = self.call("list_multipart_uploads", "list uploads", parameters)
            for entry in page.get("Uploads", []):
                if entry["Key"] in name_of:
                    uploads[name_of[entry["Key"]]].append(entry["UploadId"])
            if not page.get("IsTruncated"):
                return uploads
            parameters["KeyMarker"] = page["NextKeyMarker"]
            parameters["UploadIdMarker"] = page.get("NextUploadIdMarker", "")

    def metadata(self, name: str) -> tuple[int, dict[str, str]] | None:
        head = self._head(name)
        return None if head is None else (int(head["ContentLength"]), head.get("Metadata", {}))

    def call(
        self,
        operation: str,
        purpose: str,
        parameters: dict[str, Any] | Callable[[], dict[str, Any]],
        *,
        consume: Consumer | None = None,
        absent: tuple[str, ...] = (),
        timeout: float | None = None,
        size: int = 0,
        retries: Retries | None = None,
    ) -> Any:
        """One operation on the bucket, as botocore names it; None when the answer's code is one of ``absent``.

        ``parameters``: as they are, or asked for before each attempt. ``consume``: what is made of an answer with a
        body. ``size``: bytes of a range or part: such requests wait until the store takes more.
        """
        from botocore.exceptions import ClientError

        timeout, limiter = timeout or self.access.timeout, limiter_of(self._options, self.bucket)

        def attempt() -> Any:
            arguments = {"Bucket": self.bucket, **(parameters() if callable(parameters) else parameters)}
            body = arguments.get("Body", b"")
            pace = Pace(timeout, max(size, len(body)))
            if len(body) > _SMALL or isinstance(body, memoryview):
                arguments["Body"] = PacedBody(body, pace)
            try:
                answer = connect(self._options, timeout).call(operation, arguments)
            except ClientError as error:
                if error_code(error) in absent:
                    return None
                if is_throttled(error):
                    limiter.refused(pace.began)
                raise
            result = answer if consume is None else consume(answer, pace)
            if size:
                limiter.answered()
            return result

        admit = limiter.slot if size else contextlib.nullcontext
        what = f"cannot {purpose} in {self.location} ({operation})"
        return self.retrying(attempt, what, retries, lambda: seconds_of_retries(self._options, self.access), admit)

    def translate(self, error: Exception, what: str) -> SvcDistError:
        learn(signing_secrets())
        return s3_error(error, what)
