"""Multipart uploads on S3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from svc_dist.storage.access import Access
from svc_dist.storage.base import UploadedPart
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3_errors import NO_UPLOAD

_COMPLETING = 600.0  # seconds: a store may take minutes to put a large object together


class Prefix(Protocol):
    """The prefix of a bucket that the uploads are under: ``s3.S3Storage``."""

    root: str
    access: Access

    def key(self, name: str) -> str: ...

    def head(self, name: str) -> dict[str, Any] | None: ...

    def call(
        self,
        operation: str,
        purpose: str,
        parameters: dict[str, Any],
        *,
        absent: tuple[str, ...] = (),
        timeout: float | None = None,
        retries: Retries | None = None,
    ) -> Any: ...


class S3Multipart:
    """The multipart uploads of objects under a prefix; see ``base.Multipart``."""

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix

    def create_upload(self, name: str, metadata: dict[str, str]) -> str:
        parameters = {"Key": self._prefix.key(name), "Metadata": metadata}
        return str(self._prefix.call("create_multipart_upload", f"write {name}", parameters)["UploadId"])

    def upload_part(self, name: str, upload: str, number: int, data: bytes | bytearray, retries: Retries) -> str:
        parameters = {"Key": self._prefix.key(name), "UploadId": upload, "PartNumber": number, "Body": data}
        sent = self._prefix.call("upload_part", f"write part {number} of {name}", parameters, retries=retries)
        return str(sent["ETag"])

    def parts(self, name: str, upload: str) -> list[UploadedPart] | None:
        parts: list[UploadedPart] = []
        parameters: dict[str, Any] = {"Key": self._prefix.key(name), "UploadId": upload}
        while True:
            page = self._prefix.call("list_parts", f"look at the upload of {name}", parameters, absent=NO_UPLOAD)
            if page is None:
                return None
            entries = page.get("Parts", [])
            parts += [UploadedPart(int(entry["PartNumber"]), int(entry["Size"]), entry["ETag"]) for entry in entries]
            if not page.get("IsTruncated"):
                return parts
            parameters["PartNumberMarker"] = int(page["NextPartNumberMarker"])

    def complete_upload(self, name: str, upload: str, etags: Sequence[str]) -> bool:
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        parameters = {"Key": self._prefix.key(name), "UploadId": upload, "MultipartUpload": {"Parts": listed}}
        timeout = max(_COMPLETING, self._prefix.access.timeout)
        absent = (*NO_UPLOAD, "InvalidPart")
        completed = self._prefix.call(
            "complete_multipart_upload", f"finish {name}", parameters, absent=absent, timeout=timeout
        )
        return completed is not None

    def abort_upload(self, name: str, upload: str) -> None:
        parameters = {"Key": self._prefix.key(name), "UploadId": upload}
        self._prefix.call("abort_multipart_upload", f"drop the upload of {name}", parameters, absent=NO_UPLOAD)

    def uploads(self, names: Iterable[str]) -> dict[str, list[str]]:
        wanted = {self._prefix.key(name): name for name in names}
        uploads: dict[str, list[str]] = {name: [] for name in wanted.values()}
        parameters: dict[str, Any] = {"Prefix": f"{self._prefix.root}/" if self._prefix.root else ""}
        while True:
            page = self._prefix.call("list_multipart_uploads", "list uploads", parameters)
            for entry in page.get("Uploads", []):
                if entry["Key"] in wanted:
                    uploads[wanted[entry["Key"]]].append(entry["UploadId"])
            if not page.get("IsTruncated"):
                return uploads
            parameters["KeyMarker"] = page["NextKeyMarker"]
            parameters["UploadIdMarker"] = page.get("NextUploadIdMarker", "")

    def metadata(self, name: str) -> tuple[int, dict[str, str]] | None:
        head = self._prefix.head(name)
        return None if head is None else (int(head["ContentLength"]), head.get("Metadata", {}))
