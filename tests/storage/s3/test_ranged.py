"""One signature serves the ranges of an object; whatever a store answers otherwise ends as botocore's own call does."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from svc_dist.errors import ChangedInputError, StorageError
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.landing import MemoryTarget
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3 import ranged
from svc_dist.storage.s3.client import connect, forget_clients, limiter_of
from svc_dist.storage.s3.storage import S3Storage

DATA = bytes(range(200))
FILE = FileIdentity("file", len(DATA), 'etag:"1"')


class Answering(BaseHTTPRequestHandler):
    """Ranges of ``DATA``. ``refusals``: the status and code of the next answers in their place."""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]]
    refusals: list[tuple[int, str]]
    needs_signed_range = False

    def do_HEAD(self) -> None:
        self.reply(200, DATA)

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append(headers)
        if self.refusals:
            status, code = self.refusals.pop(0)
            return self.reply(status, f"<Error><Code>{code}</Code><Message>not now</Message></Error>".encode())
        if self.needs_signed_range and "range" not in headers["authorization"]:
            return self.reply(403, b"<Error><Code>AccessDenied</Code></Error>")
        if headers.get("if-match", '"1"') != '"1"':
            return self.reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", headers["range"])
        assert span is not None
        return self.reply(206, DATA[int(span[1]) : int(span[2]) + 1])

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Storage]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "test")
    forget_clients()
    Answering.seen, Answering.refusals, Answering.needs_signed_range = [], [], False
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        options = ClientOptions(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        yield S3Storage("s3://bucket/model", Access({"": options}, timeout=5.0, deadline=2.0))
        server.shutdown()


def fetch(store: S3Storage, start: int, end: int, file: FileIdentity = FILE) -> bytes:
    memory = bytearray(end - start)
    store.fetch(file, start, end, MemoryTarget(memoryview(memory)), Retries())
    return bytes(memory)


def test_ranges_of_an_object_share_a_signature(store: S3Storage) -> None:
    for start in (0, 50, 100):
        assert fetch(store, start, start + 50) == DATA[start : start + 50]
    assert store.read_pinned(FILE, 3, 7) == DATA[3:7]
    assert [headers["range"] for headers in Answering.seen] == [
        "bytes=0-49", "bytes=50-99", "bytes=100-149", "bytes=3-6",
    ]  # fmt: skip
    assert {headers["if-match"] for headers in Answering.seen} == {'"1"'}
    (authorization,) = {headers["authorization"] for headers in Answering.seen}
    signed = re.search("SignedHeaders=([^,]*)", authorization)
    assert signed is not None
    assert set(signed[1].split(";")) == {"host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"}


def test_objects_and_minutes_have_their_own_signatures(store: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(store, 0, 50)
    fetch(store, 0, 50, FileIdentity("other", len(DATA), 'etag:"1"'))
    assert len({headers["authorization"] for headers in Answering.seen}) == 2
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    client = connect(store._options, 5.0)
    for item, signed in client.ranged._signed.items():
        client.ranged._signed[item] = ranged._Signed(signed.url, signed.headers, 0.0)
    object.__setattr__(client.client._request_signer._credentials, "secret_key", "another")
    fetch(store, 0, 50)
    assert len({headers["authorization"] for headers in Answering.seen}) == 3, "with the credentials of now"


def test_who_pays_is_signed(store: S3Storage) -> None:
    paying = ClientOptions(endpoint_url=store._options.endpoint_url, client={"requester_pays": True})
    fetch(S3Storage("s3://bucket/model", Access({"": paying})), 0, 50)
    (headers,) = Answering.seen
    assert headers["x-amz-request-payer"] == "requester"
    assert "x-amz-request-payer" in headers["authorization"]


def test_a_bucket_without_credentials(store: S3Storage) -> None:
    anonymous = ClientOptions(endpoint_url=store._options.endpoint_url, anonymous=True)
    assert fetch(S3Storage("s3://bucket/model", Access({"": anonymous})), 0, 50) == DATA[:50]
    assert "authorization" not in Answering.seen[0]


def test_a_changed_file_is_seen(store: S3Storage) -> None:
    with pytest.raises(ChangedInputError, match="changed since the plan was made"):
        fetch(store, 0, 50, FileIdentity("file", len(DATA), 'etag:"0"'))
    assert len(Answering.seen) == 1


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (429, "TooManyRequests"), (500, "InternalError")])
def test_a_store_that_fails_is_asked_again(store: S3Storage, status: int, code: str) -> None:
    Answering.refusals = [(status, code)]
    limiter = limiter_of(store._options, "bucket")
    before = limiter.window
    assert fetch(store, 0, 50) == DATA[:50]
    assert len(Answering.seen) == 2
    assert (limiter.window < before) == (status == 503)


def test_a_store_that_wants_the_range_signed_is_asked_in_botocores_way(store: S3Storage) -> None:
    Answering.needs_signed_range = True
    for start in (0, 50, 100):
        assert fetch(store, start, start + 50) == DATA[start : start + 50]
    assert len(Answering.seen) == 4, "one refusal a minute"


def test_a_refusal_says_why(store: S3Storage) -> None:
    Answering.refusals = [(403, "AccessDenied")] * 2
    with pytest.raises(StorageError, match="AccessDenied: not now"):
        fetch(store, 0, 50)
