"""The S3 client: an answer that trickles ends, a body is sent in blocks, and options reach the requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.utils import parse_timestamp

from svc_dist.errors import StorageError
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.landing import MemoryTarget
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3.client import connect, forget_clients, read_time
from svc_dist.storage.s3.storage import S3Storage

SIZE = 1000


class Trickling(BaseHTTPRequestHandler):
    """One byte every 50 ms, for longer than any test waits."""

    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers.items()))
        self.send_response(206)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_header("Content-Length", str(SIZE - start))
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
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def storage_at(endpoint: str, **client: object) -> S3Storage:
    access = Access({"": ClientOptions(endpoint_url=endpoint, client=client)}, timeout=0.5, deadline=0.6)
    return S3Storage("s3://bucket/model", access)


def test_an_answer_that_trickles_is_ended(trickling: str) -> None:
    storage = storage_at(trickling)
    connect(storage._options, 0.5)
    began = time.monotonic()
    with pytest.raises(StorageError, match="TimeoutError: only "):
        storage.get("file")
    with pytest.raises(StorageError, match="TimeoutError: only "):
        storage.fetch(
            FileIdentity("file", SIZE, 'etag:"1"'), 0, SIZE, MemoryTarget(memoryview(bytearray(SIZE))), Retries()
        )
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
