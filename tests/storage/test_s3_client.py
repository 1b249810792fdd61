"""The S3 client: an answer that trickles ends, a body is sent in blocks, and options reach the requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.utils import parse_timestamp

from svc_dist.errors import StorageError
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3 import S3Storage
from svc_dist.storage.s3_client import Pace, PacedBody, connect, forget_clients, read_time

SIZE = 1000


class Trickling(BaseHTTPRequestHandler):
    """One byte every 50 ms, for longer than any test waits."""

    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers.items()))
        self.send_response(206)
        self.send_header("Content-Length", str(SIZE))
        self.send_header("ETag", '"1"')
        self.end_headers()
        try:
            for _ in range(SIZE):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except ConnectionError:
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.send_response(500)
        self.end_headers()

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def trickling(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    forget_clients()
    Trickling.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Trickling) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def storage_at(endpoint: str, **client: object) -> S3Storage:
    access = Access({"": ClientOptions(endpoint_url=endpoint, client=client)}, timeout=0.5, deadline=0.6)
    return S3Storage("s3://bucket/model", access)


def test_an_answer_that_trickles_is_ended(trickling: str, tmp_path: Path) -> None:
    storage = storage_at(trickling)
    connect(storage._options, 0.5)
    began = time.monotonic()
    with pytest.raises(StorageError, match="TimeoutError: only "):
        storage.get("file")
    with (tmp_path / "body").open("w+b") as file, pytest.raises(StorageError, match="TimeoutError: only "):
        storage.fetch(FileIdentity("file", SIZE, 'etag:"1"'), 0, SIZE, file.fileno(), 0, Retries())
    assert time.monotonic() - began < SIZE * 0.05 / 2


def test_a_view_with_a_deadline_is_the_same_storage_with_other_limits(trickling: str) -> None:
    storage = S3Storage("s3://bucket/model", Access({"": ClientOptions(endpoint_url=trickling)}))
    view = storage.within(0.5)
    assert (view.location, view.root, view.access.timeout, view.access.deadline) == (
        storage.location, storage.root, 0.5, 0.5
    )  # fmt: skip
    assert (storage.access.timeout, storage.access.deadline) == (60.0, 300.0)
    with pytest.raises(StorageError, match="TimeoutError: only "):
        view.get("file")


def test_who_pays_is_in_the_requests_that_can_say_so(trickling: str) -> None:
    with pytest.raises(StorageError):
        storage_at(trickling, requester_pays=True).get("file")
    assert {headers.get("x-amz-request-payer") for headers in Trickling.seen} == {"requester"}


def test_a_body_is_read_in_blocks_and_again_from_its_start() -> None:
    body = PacedBody(b"0123456789", Pace(60))
    assert [body.read(4), body.read(4), body.read(4), body.read(4)] == [b"0123", b"4567", b"89", b""]
    assert body.seek(2) == 2
    assert (body.tell(), body.read()) == (2, b"23456789")


def test_a_body_that_is_taken_too_slowly_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    body = PacedBody(bytes(1 << 20), Pace(1, 1 << 20))
    now[0] = 8.9
    assert body.read(10)
    now[0] = 9.1
    with pytest.raises(TimeoutError, match="only 10 bytes in 9 s"):
        body.read(10)


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-29T09:35:15.123Z",
        "2026-11-29T09:35:15+02:00",
        "2026-11-29T09:35:15",
        "Sun, 29 Nov 2026 09:35:15 GMT",
        "1795944915",
        1795944915,
    ],
)
def test_times_are_those_that_botocore_reads(value: object) -> None:
    assert read_time(value) == parse_timestamp(value)
