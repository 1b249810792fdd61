"""What the tests of S3 storage rely on: the two servers behave, each as far as it is said to."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from svc_dist.errors import ChangedInputError
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.s3.client import connect
from svc_dist.storage.s3.storage import S3Storage
from tests.support.s3_files import put
from tests.support.s3_servers import HOST, Bucket, Moto, SeaweedFS, Server, client, free_ports

pytestmark = pytest.mark.slow  # what the servers do changes with their versions only

PART = bytes(range(256)) * (5 << 12)  # 5 MiB, the least that a part may have
TAIL = b"the end"


def status(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[int, str]:
    """What a call is answered: the HTTP status, and the error's code."""
    try:
        return call(*arguments, **options)["ResponseMetadata"]["HTTPStatusCode"], ""
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]


def md5(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class Upload:
    """A multipart upload."""

    def __init__(self, bucket: Bucket, key: str, **options: Any) -> None:
        self.s3 = bucket.client()
        self.name = {"Bucket": bucket.name, "Key": key}
        self.name["UploadId"] = self.s3.create_multipart_upload(**self.name, **options)["UploadId"]

    def part(self, number: int, data: bytes, **options: Any) -> dict[str, Any]:
        done = self.s3.upload_part(**self.name, PartNumber=number, Body=data, **options)
        return {"PartNumber": number, "ETag": done["ETag"]}

    def listed(self) -> list[tuple[int, str, int]]:
        parts = self.s3.list_parts(**self.name).get("Parts", [])
        return sorted((part["PartNumber"], part["ETag"], part["Size"]) for part in parts)

    def complete(self, *parts: dict[str, Any], **options: Any) -> dict[str, Any]:
        return self.s3.complete_multipart_upload(**self.name, MultipartUpload={"Parts": parts}, **options)


def uploads(bucket: Bucket, prefix: str = "") -> list[str]:
    """The keys of the uploads in flight."""
    listed = bucket.client().list_multipart_uploads(Bucket=bucket.name, Prefix=prefix)
    return sorted(upload["Key"] for upload in listed.get("Uploads", []))


def read(bucket: Bucket, key: str, **options: Any) -> bytes:
    return bucket.client().get_object(Bucket=bucket.name, Key=key, **options)["Body"].read()


def test_ranges(s3: Bucket) -> None:
    s3.client().put_object(Bucket=s3.name, Key="a/key", Body=b"0123456789")
    assert read(s3, "a/key", Range="bytes=2-4") == b"234"
    assert read(s3, "a/key", Range="bytes=8-99") == b"89"
    get = s3.client().get_object
    partly = get(Bucket=s3.name, Key="a/key", Range="bytes=2-4", IfMatch=md5(b"0123456789"))
    assert (partly["ContentRange"], partly["ETag"]) == ("bytes 2-4/10", md5(b"0123456789"))
    assert status(get, Bucket=s3.name, Key="a/key", Range="bytes=10-12") == (416, "InvalidRange")
    other = status(get, Bucket=s3.name, Key="a/key", Range="bytes=2-4", IfMatch=md5(b""))
    assert other == (412, "PreconditionFailed")
    assert status(get, Bucket=s3.name, Key="none") == (404, "NoSuchKey")


def test_our_storage_finds_the_server(s3: Bucket) -> None:
    storage = S3Storage(s3.url)
    storage.put("folder/file", b"hello")
    assert storage.names("folder") == ["file"]
    assert storage.names() == []
    assert storage.names(recursive=True) == ["folder/file"]
    assert storage.read("folder/file", 1, 3) == b"el"
    assert storage.stat("folder/file") == FileIdentity("folder/file", 5, f"etag:{md5(b'hello')}")
    assert storage.sub("folder").get("file") == b"hello"


def test_multipart(s3: Bucket) -> None:
    upload = Upload(s3, "run/shard", Metadata={"Plan": "abc"})
    second = upload.part(2, TAIL)
    first = upload.part(1, PART)
    assert upload.listed() == [(1, md5(PART), len(PART)), (2, md5(TAIL), len(TAIL))]
    assert status(s3.client().head_object, Bucket=s3.name, Key="run/shard") == (404, "404")
    assert status(upload.complete, first, {**second, "ETag": md5(b"")}) == (400, "InvalidPart")
    assert status(upload.complete, first, {**second, "PartNumber": 3}) == (400, "InvalidPart")
    etag = upload.complete(first, second)["ETag"]
    assert etag == md5(hashlib.md5(PART).digest() + hashlib.md5(TAIL).digest())[:-1] + '-2"'
    head = s3.client().head_object(Bucket=s3.name, Key="run/shard")
    assert (head["ETag"], head["Metadata"], head["ContentLength"]) == (etag, {"plan": "abc"}, len(PART + TAIL))
    assert read(s3, "run/shard") == PART + TAIL


def test_a_complete_repeated_is_answered_alike(s3: Bucket) -> None:
    upload = Upload(s3, "shard")
    part = upload.part(1, TAIL)
    assert upload.complete(part)["ETag"] == upload.complete(part)["ETag"]
    assert status(upload.s3.list_parts, **upload.name) == (404, "NoSuchUpload")
    aborted = status(upload.s3.abort_multipart_upload, **upload.name)
    assert aborted == ((404, "NoSuchUpload") if isinstance(s3.server, Moto) else (204, ""))
    assert read(s3, "shard") == TAIL


def test_uploads_in_flight_are_listed_by_prefix(s3: Bucket) -> None:
    first, _, _ = (Upload(s3, key) for key in ("run/a", "run/a", "run/b"))
    Upload(s3, "other")
    assert uploads(s3, "run/") == ["run/a", "run/a", "run/b"]
    assert uploads(s3, "run/b") == ["run/b"]
    assert uploads(s3, "none") == []
    first.complete(first.part(1, TAIL))
    assert uploads(s3, "run/") == ["run/a", "run/b"]


def test_an_aborted_upload_is_gone(s3: Bucket) -> None:
    upload = Upload(s3, "shard")
    upload.part(1, TAIL)
    upload.s3.abort_multipart_upload(**upload.name)
    assert uploads(s3) == []
    assert status(upload.s3.list_parts, **upload.name) == (404, "NoSuchUpload")
    late = status(upload.s3.upload_part, **upload.name, PartNumber=1, Body=TAIL)[0]
    assert late == (500 if isinstance(s3.server, Moto) else 404)


def test_a_part_that_was_sent_twice(s3: Bucket) -> None:
    """SeaweedFS lists both, and takes the one it is asked for."""
    upload = Upload(s3, "shard")
    old, new = upload.part(1, PART), upload.part(1, PART[::-1])
    tail = upload.part(2, TAIL)
    newer = (1, new["ETag"], len(PART))
    both = sorted([newer, (1, old["ETag"], len(PART))])
    assert upload.listed()[:-1] == ([newer] if isinstance(s3.server, Moto) else both)
    upload.complete(new, tail)
    assert read(s3, "shard") == PART[::-1] + TAIL


def test_conditional_puts(s3: Bucket) -> None:
    def put(body: bytes, **condition: str) -> tuple[int, str]:
        return status(s3.client().put_object, Bucket=s3.name, Key="key", Body=body, **condition)

    absent = put(b"0", IfMatch=md5(b""))
    assert absent == ((404, "NoSuchKey") if isinstance(s3.server, Moto) else (412, "PreconditionFailed"))
    assert put(b"1", IfNoneMatch="*") == (200, "")
    assert put(b"2", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert put(b"3", IfMatch=md5(b"1")) == (200, "")
    assert put(b"4", IfMatch=md5(b"1")) == (412, "PreconditionFailed")
    assert read(s3, "key") == b"3"


@pytest.mark.parametrize("condition", [{"IfNoneMatch": "*"}, {"IfMatch": md5(b"first")}])
def test_of_several_conditional_puts_at_once_one_gets_through(s3: Bucket, condition: dict[str, str]) -> None:
    if "IfMatch" in condition:
        s3.client().put_object(Bucket=s3.name, Key="key", Body=b"first")
    own = s3.client()
    start = threading.Barrier(8)

    def put(number: int) -> int:
        start.wait()
        return status(own.put_object, Bucket=s3.name, Key="key", Body=b"%d" % number, **condition)[0]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(put, range(8)))
    assert sorted(answers) == [200] + [412] * 7
    assert read(s3, "key") == b"%d" % answers.index(200)


def test_a_conditional_complete(s3: Bucket) -> None:
    first, second = Upload(s3, "shard"), Upload(s3, "shard")
    first.complete(first.part(1, b"first"), IfNoneMatch="*")
    part = second.part(1, b"second")
    assert status(second.complete, part, IfNoneMatch="*") == (412, "PreconditionFailed")
    assert read(s3, "shard") == b"first"
    assert uploads(s3) == ["shard"]
    second.complete(part)
    assert read(s3, "shard") == b"second"


@pytest.mark.parametrize("where", ["header", "trailer"])
def test_checksums(s3: Bucket, where: str) -> None:
    """botocore's CRC32: over plain HTTP it goes into a header, over TLS behind an aws-chunked body."""
    own = s3.client()

    def place(params: dict[str, Any], **_: Any) -> None:
        params["context"]["checksum"]["request_algorithm"]["in"] = where

    own.meta.events.register("before-call.s3.PutObject", place)
    done = own.put_object(Bucket=s3.name, Key="key", Body=PART)
    crc32 = base64.b64encode(zlib.crc32(PART).to_bytes(4, "big")).decode()
    assert done["ChecksumCRC32"] == crc32
    got = s3.client().get_object(Bucket=s3.name, Key="key", ChecksumMode="ENABLED")
    assert (got["ChecksumCRC32"], got["Body"].read()) == (crc32, PART)


def test_wrong_checksums_are_refused(disk_s3: Bucket) -> None:
    own = disk_s3.client(request_checksum_calculation="when_required")
    upload = Upload(disk_s3, "shard")
    wrong = [{"ContentMD5": base64.b64encode(bytes(16)).decode()}, {"ChecksumCRC32": "AAAAAA=="}]
    for checksum in wrong:
        put = status(own.put_object, Bucket=disk_s3.name, Key="key", Body=b"x", **checksum)
        assert put == (400, "BadDigest")
        assert status(own.upload_part, **upload.name, PartNumber=1, Body=b"x", **checksum)[0] == 400
    assert upload.listed() == []
    assert status(own.head_object, Bucket=disk_s3.name, Key="key")[0] == 404


def test_wrong_credentials_are_refused(disk_s3: Bucket) -> None:
    environment = disk_s3.server.environment
    for wrong, code in (
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId"),
    ):
        own = client(environment | wrong)
        assert status(own.put_object, Bucket=disk_s3.name, Key="key", Body=b"x") == (403, code)
        assert status(own.list_objects_v2, Bucket=disk_s3.name) == (403, code)


def test_parts_in_the_wrong_order_are_refused(disk_s3: Bucket) -> None:
    upload = Upload(disk_s3, "shard")
    parts = [upload.part(number, PART) for number in (1, 2)]
    assert status(upload.complete, *reversed(parts)) == (400, "InvalidPartOrder")


def once_awake(request: Callable[[], bytes]) -> bytes:
    """The answer of a store that has just started: for a moment it may not know yet where its objects lie."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return request()
        except ClientError as error:
            if error.response["Error"]["Code"] != "InternalError" or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_what_was_stored_outlives_a_kill(disk_s3: Bucket) -> None:
    """Objects, and uploads in flight with their parts; a part that was half sent is not there."""
    own = disk_s3.client()
    own.put_object(Bucket=disk_s3.name, Key="object", Body=PART)
    upload = Upload(disk_s3, "shard", Metadata={"plan": "abc"})
    first = upload.part(1, PART)

    with socket.create_connection((HOST, disk_s3.server.port)) as half:
        url = own.generate_presigned_url("upload_part", {**upload.name, "PartNumber": 2})
        target = url.removeprefix(disk_s3.server.endpoint)
        head = f"PUT {target} HTTP/1.1\r\nHost: {HOST}:{disk_s3.server.port}\r\nContent-Length: {len(PART)}\r\n\r\n"
        half.sendall(head.encode() + PART[: len(PART) // 2])
        disk_s3.server.kill()
    with pytest.raises(BotoCoreError):
        own.head_object(Bucket=disk_s3.name, Key="object")
    disk_s3.server.start()

    assert once_awake(lambda: read(disk_s3, "object")) == PART
    assert uploads(disk_s3) == ["shard"]
    assert upload.listed() == [(1, md5(PART), len(PART))]
    upload.complete(first, upload.part(2, TAIL))
    assert read(disk_s3, "shard") == PART + TAIL
    assert own.head_object(Bucket=disk_s3.name, Key="shard")["Metadata"] == {"plan": "abc"}


def test_a_restart_keeps_the_address_and_leaves_nothing(tmp_path: Path) -> None:
    server = SeaweedFS(tmp_path / "server")
    endpoint = server.endpoint
    with server:
        first = server.process
        assert first is not None
        server.restart()
        assert server.process is not None
        assert server.process.pid != first.pid
        assert server.endpoint == endpoint
        last = server.process
    for process in (first, last):
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)
    assert not list(Path("/tmp").glob(f"seaweedfs-*{server.port}.sock"))


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_a_killed_test_run_leaves_no_server(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys; from tests.system.s3_servers import Moto\n"
        "print(Moto(pathlib.Path(sys.argv[1])).start().process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    process = Path("/proc", done.stdout.strip())
    end = time.monotonic() + 20
    while process.exists() and process.joinpath("cmdline").read_bytes():  # a zombie has none
        assert time.monotonic() < end, "the server lives on"
        time.sleep(0.05)


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    server = Moto(tmp_path)
    with socket.create_server((HOST, server.port)), pytest.raises(RuntimeError, match="in use"):
        server.start()
    assert server.process is None

    class Silent(Server):
        ready = 200

        def command(self) -> list[str]:
            return ["sh", "-c", "echo not today; sleep 60"]

    silent = Silent(tmp_path / "silent")
    (silent.port,) = free_ports(1)
    with pytest.raises(RuntimeError, match=r"(?s)answers None after 0.3 s.*not today"):
        silent.start(timeout=0.3)
    assert silent.process is None


def test_a_signature_serves_several_ranges(disk_s3: Bucket) -> None:
    """SeaweedFS checks signatures: one that does not cover the range and the condition is good for all of them."""
    put(disk_s3, "model/file", b"0123456789")
    storage = S3Storage(f"{disk_s3.url}/model")
    file = storage.stat("file")
    assert file is not None
    assert [storage.read_pinned(file, start, start + 3) for start in (0, 3, 6)] == [b"012", b"345", b"678"]
    (signed,) = connect(storage._options, storage.access.timeout).ranged._signed.values()
    assert signed.url, "none of them was refused"
    put(disk_s3, "model/file", b"another one")
    with pytest.raises(ChangedInputError):
        storage.read_pinned(file, 0, 3)
