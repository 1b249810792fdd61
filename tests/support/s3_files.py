"""What lies in a bucket, seen by a plain client: the tests' own eyes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from svc_dist.storage.s3.storage import S3Storage
from tests.support.s3_servers import Bucket

#: For tests that say little more on a second server: on moto only with the long ones.
moto_is_slow = pytest.mark.parametrize("s3", [pytest.param("moto", marks=pytest.mark.slow), "seaweed"], indirect=True)


def put_folder(bucket: Bucket, folder: Path, prefix: str) -> str:
    """Copy the files of a folder under a prefix. Returns its URL."""
    s3 = bucket.client()
    for file in sorted(folder.iterdir()):
        s3.put_object(Bucket=bucket.name, Key=f"{prefix}/{file.name}", Body=file.read_bytes())
    return f"{bucket.url}/{prefix}"


def put_models(bucket: Bucket, models: list[Path]) -> list[str]:
    """Copy local models under ``models/``. Returns their URLs."""
    return [put_folder(bucket, model, f"models/{model.name}") for model in models]


def listing(bucket: Bucket, prefix: str = "") -> dict[str, tuple[str, Any]]:
    """Every object's ETag and LastModified, by key."""
    pages = bucket.client().get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=prefix)
    return {
        entry["Key"]: (entry["ETag"], entry["LastModified"]) for page in pages for entry in page.get("Contents", [])
    }


def read(bucket: Bucket, key: str) -> bytes:
    return bytes(bucket.client().get_object(Bucket=bucket.name, Key=key)["Body"].read())


def put(bucket: Bucket, key: str, data: bytes) -> None:
    bucket.client().put_object(Bucket=bucket.name, Key=key, Body=data)


def uploads(bucket: Bucket, prefix: str = "") -> set[tuple[str, str]]:
    """Key and id of every multipart upload in flight."""
    pages = bucket.client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket.name, Prefix=prefix)
    return {(upload["Key"], upload["UploadId"]) for page in pages for upload in page.get("Uploads", [])}


def begin_upload(bucket: Bucket, key: str) -> tuple[str, str]:
    """Somebody else's multipart upload, with one part sent. Returns its key and id."""
    s3 = bucket.client()
    upload = s3.create_multipart_upload(Bucket=bucket.name, Key=key)["UploadId"]
    s3.upload_part(Bucket=bucket.name, Key=key, UploadId=upload, PartNumber=1, Body=b"not ours")
    return key, upload


def model_hashes(bucket: Bucket, prefix: str) -> dict[str, str]:
    """SHA-256 of each shard and of the index, as ``shard_hashes`` has them for a folder."""
    keys = [key for key in listing(bucket, f"{prefix}/model") if "/" not in key.removeprefix(f"{prefix}/")]
    assert keys, f"no shards under {prefix}"
    return {key.removeprefix(f"{prefix}/"): hashlib.sha256(read(bucket, key)).hexdigest() for key in keys}


def download(bucket: Bucket, prefix: str, folder: Path) -> Path:
    """Copy what lies directly under a prefix into a folder."""
    folder.mkdir(parents=True)
    for key in listing(bucket, f"{prefix}/"):
        name = key.removeprefix(f"{prefix}/")
        assert "/" not in name, f"{key} is no file of a model"
        (folder / name).write_bytes(read(bucket, key))
    return folder


class StoppedError(Exception):
    """What ``stopping_after`` ends a merge with."""


@contextmanager
def stopping_after(receipts: int) -> Iterator[None]:
    """A merge in this process that starts within ends before it can record one receipt more."""
    put_object, recorded, one_at_a_time = S3Storage.put, count(), threading.Lock()

    def stopped(self: S3Storage, name: str, data: bytes) -> None:
        if "receipts/" not in name:
            return put_object(self, name, data)
        with one_at_a_time:  # the receipts before the last one are there when the merge ends
            if next(recorded) >= receipts:
                raise StoppedError
            put_object(self, name, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Storage, "put", stopped)
        try:
            yield
        except StoppedError:
            for thread in threading.enumerate():  # what was in flight still writes: a shard may be finished meanwhile
                if thread.name.startswith(("RunUnit", "FinishShard")):
                    thread.join()
            return
    pytest.fail("the merge was not stopped")
