"""Bodies go from the socket to their place, and what has come stays when the connection breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from svc_dist.errors import StorageError
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.landing import FileTarget, MemoryTarget
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3.bodies import Pace, PacedBody
from svc_dist.storage.s3.client import forget_clients
from svc_dist.storage.s3.storage import S3Storage

BODY = bytes(range(251)) * 4000
FILE = FileIdentity("file", len(BODY), 'etag:"1"')


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler, int], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A storage behind ``answer``, which is called with each request and its number; and the requests' ranges."""
    ranges: list[str] = []
    connections: set[Any] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            ranges.append(self.headers["Range"])
            connections.add(self.client_address)
            answer(self, len(ranges))

        def log_message(self, *arguments: object) -> None: ...

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    forget_clients()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        options = ClientOptions(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        storage = S3Storage("s3://bucket/model", Access({"": options}, timeout=2, deadline=2))
        yield storage, ranges, connections
        server.shutdown()


def head(request: BaseHTTPRequestHandler, length: int | None, etag: str = '"1"') -> None:
    request.send_response(206)
    request.send_header("ETag", etag)
    if length is None:
        request.send_header("Transfer-Encoding", "chunked")
    else:
        request.send_header("Content-Length", str(length))
    request.end_headers()


def start_of(request: BaseHTTPRequestHandler) -> int:
    return int(request.headers["Range"].removeprefix("bytes=").split("-")[0])


def whole(request: BaseHTTPRequestHandler, number: int) -> None:
    head(request, len(BODY) - start_of(request))
    request.wfile.write(BODY[start_of(request) :])


def in_chunks(request: BaseHTTPRequestHandler, number: int) -> None:
    head(request, None)
    for first in range(0, len(BODY), 100_000):
        data = BODY[first : first + 100_000]
        request.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    request.wfile.write(b"0\r\n\r\n")


def cut_once(request: BaseHTTPRequestHandler, number: int) -> None:
    if number > 1:
        return whole(request, number)
    head(request, len(BODY))
    request.wfile.write(BODY[:400_000])
    request.close_connection = True
    return None


def fetched(storage: S3Storage, retries: Retries) -> bytes:
    memory = bytearray(len(BODY))
    storage.fetch(FILE, 0, len(BODY), MemoryTarget(memoryview(memory)), retries)
    return bytes(memory)


@pytest.mark.parametrize("answer", [whole, in_chunks])
def test_bytes_come_to_their_place(answer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with serving(answer, monkeypatch) as (storage, _, _), (tmp_path / "scratch").open("w+b") as file:
        assert fetched(storage, Retries()) == BODY
        storage.fetch(FILE, 0, len(BODY), FileTarget(file.fileno(), 5, len(BODY)), Retries())
        assert file.read()[5:] == BODY


def test_a_connection_serves_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(whole, monkeypatch) as (storage, ranges, connections):
        assert [fetched(storage, Retries()) for _ in range(3)] == [BODY] * 3
        assert (len(ranges), len(connections)) == (3, 1)


def test_a_retry_asks_for_the_bytes_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    retries = Retries()
    with serving(cut_once, monkeypatch) as (storage, ranges, _):
        assert fetched(storage, retries) == BODY
    assert ranges == [f"bytes=0-{len(BODY) - 1}", f"bytes=400000-{len(BODY) - 1}"]
    assert retries.count == 1


@pytest.mark.parametrize("length", [10, len(BODY) + 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_of_another_length_is_left(length: int, chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        if number > 1:
            return whole(request, number)
        data = b"x" * length
        head(request, None if chunked else length)
        request.wfile.write(f"{length:x}\r\n".encode() + data + b"\r\n0\r\n\r\n" if chunked else data)
        return None

    with serving(answer, monkeypatch) as (storage, ranges, _):
        assert fetched(storage, Retries()) == BODY
    assert ranges == [f"bytes=0-{len(BODY) - 1}"] * 2


def test_bytes_of_another_version_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        head(request, len(BODY), etag='"2"')
        request.wfile.write(b"x" * len(BODY))

    with serving(answer, monkeypatch) as (storage, _, _), pytest.raises(StorageError, match="the answer's ETag is"):
        fetched(storage.within(0.3), Retries())


def test_a_body_is_read_in_large_blocks_and_again_from_its_start() -> None:
    data = bytes(range(256)) * 4096
    body = PacedBody(memoryview(data), Pace(60))
    blocks = list(iter(lambda: body.read(16_384), b""))
    assert [len(block) for block in blocks] == [1 << 18] * 4
    assert b"".join(blocks) == data
    assert body.seek(2) == 2
    assert (body.tell(), body.read()) == (2, data[2:])


def test_a_body_that_is_taken_too_slowly_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    body = PacedBody(bytes(1 << 20), Pace(1, 1 << 20))
    now[0] = 8.9
    assert body.read(10)
    now[0] = 9.1
    with pytest.raises(TimeoutError, match="only 262,144 bytes in 9 s"):
        body.read(10)
