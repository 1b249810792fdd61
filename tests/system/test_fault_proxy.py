"""The proxy does nothing to the requests it leaves alone, and a client really sees what it does to the others."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from svc_dist.storage.retry import Retries
from svc_dist.storage.s3.client import forget_clients
from svc_dist.storage.s3.storage import S3Storage
from tests.support.fault_proxy import Fault, FaultProxy, Kind, Request, is_part
from tests.support.s3_servers import HOST, Bucket, Moto, free_ports
from tests.system.test_s3_servers import PART, TAIL, md5


def put(bucket: Bucket, proxy: FaultProxy, key: str, body: bytes, **options: Any) -> dict[str, Any]:
    return bucket.client(proxy.endpoint).put_object(Bucket=bucket.name, Key=key, Body=body, **options)


def get(bucket: Bucket, proxy: FaultProxy, key: str, **options: Any) -> bytes:
    response = bucket.client(proxy.endpoint, read_timeout=2).get_object(Bucket=bucket.name, Key=key, **options)
    return response["Body"].read()


def connected(proxy: FaultProxy) -> socket.socket:
    host, port = proxy.endpoint.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.fixture
def stored(s3: Bucket) -> Bucket:
    """A bucket with an object."""
    s3.client().put_object(Bucket=s3.name, Key="key", Body=PART)
    return s3


def test_nothing_changes_without_faults(s3: Bucket) -> None:
    """Many requests at once through kept connections: the same bytes and ETags on both sides."""
    bodies = {f"k {number}/é": bytes([number]) + PART[number:] for number in range(12)} | {"empty": b""}
    with FaultProxy(s3.server.endpoint) as proxy, ThreadPoolExecutor(12) as pool:
        through, direct = (s3.client(endpoint, max_pool_connections=12) for endpoint in (proxy.endpoint, None))

        def there_and_back(key: str) -> None:
            body = bodies[key]
            assert through.put_object(Bucket=s3.name, Key=key, Body=body)["ETag"] == md5(body)
            for client in (through, direct):
                got = client.get_object(Bucket=s3.name, Key=key)
                assert (got["ETag"], got["Body"].read()) == (md5(body), body)
            head = through.head_object(Bucket=s3.name, Key=key)
            assert (head["ContentLength"], head["ETag"]) == (len(body), md5(body))
            if body:
                part = through.get_object(Bucket=s3.name, Key=key, Range="bytes=3-9")
                assert (part["ContentRange"], part["Body"].read()) == (f"bytes 3-9/{len(body)}", body[3:10])

        list(pool.map(there_and_back, bodies))
        assert {entry["Key"] for entry in through.list_objects_v2(Bucket=s3.name)["Contents"]} == set(bodies)
        assert through.delete_object(Bucket=s3.name, Key="empty")["ResponseMetadata"]["HTTPStatusCode"] == 204
        assert proxy.injected() == Counter()
        assert Counter(request.status for request in proxy.requests) == {200: 13 * 3 + 1, 206: 12, 204: 1}
        assert {request.range for request in proxy.requests} == {None, "bytes=3-9"}


def test_errors_of_the_server_come_through(s3: Bucket) -> None:
    with FaultProxy(s3.server.endpoint) as proxy:
        with pytest.raises(ClientError, match="NoSuchKey"):
            get(s3, proxy, "none")
        put(s3, proxy, "key", TAIL, IfNoneMatch="*")
        with pytest.raises(ClientError, match="PreconditionFailed"):
            put(s3, proxy, "key", PART, IfNoneMatch="*")
        assert [request.status for request in proxy.requests] == [404, 200, 412]


@pytest.mark.parametrize("body", [b"", PART * 8])
def test_a_refusal_before_the_body_comes_through(body: bytes) -> None:
    """To a client that waits for 100 Continue, and to one that is in the middle of its body."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]

        def refuse() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1 << 16)
                sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass

        server = threading.Thread(target=refuse)
        server.start()
        with FaultProxy(f"http://{HOST}:{port}") as proxy, connected(proxy) as sock:
            sock.sendall(b"PUT /key HTTP/1.1\r\nContent-Length: 50000000\r\nExpect: 100-continue\r\n\r\n" + body)
            assert sock.makefile("rb").read() == b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
            assert [request.status for request in proxy.requests] == [403]
        server.join()


@pytest.mark.parametrize("where", ["header", "trailer"])
def test_a_multipart_upload_with_checksums(s3: Bucket, where: str) -> None:
    """Checksums in a header, and in the trailer of an aws-chunked body within a chunked one."""
    name: dict[str, Any] = {"Bucket": s3.name, "Key": "shard"}
    with FaultProxy(s3.server.endpoint) as proxy:
        own = s3.client(proxy.endpoint)

        def place(params: dict[str, Any], **_: Any) -> None:
            params["context"]["checksum"]["request_algorithm"]["in"] = where

        own.meta.events.register("before-call.s3.UploadPart", place)
        name["UploadId"] = own.create_multipart_upload(**name)["UploadId"]
        parts = [
            {"PartNumber": number, "ETag": own.upload_part(**name, PartNumber=number, Body=body)["ETag"]}
            for number, body in ((1, PART), (2, TAIL))
        ]
        assert [part["ETag"] for part in parts] == [md5(PART), md5(TAIL)]
        own.complete_multipart_upload(**name, MultipartUpload={"Parts": parts})
        assert get(s3, proxy, "shard") == PART + TAIL
        assert proxy.count("PUT", "partNumber=") == 2


def test_our_storage_works_through_it(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultProxy(s3.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        forget_clients()
        storage = S3Storage(s3.url)
        upload = storage.create_upload("file", {})
        etags = [storage.upload_part("file", upload, number, PART, Retries()) for number in (1, 2, 3)]
        storage.complete_upload("file", upload, etags)
        assert storage.metadata("file") is not None
        assert storage.read("file", len(PART) - 2, len(PART) + 2) == PART[-2:] + PART[:2]
        assert storage.get("file") == PART * 3
        assert proxy.count("PUT", "partNumber=") == 3


@pytest.mark.parametrize(("kind", "code", "status"), [("500", "InternalError", 500), ("503", "SlowDown", 503)])
def test_refusals(stored: Bucket, kind: str, code: str, status: int) -> None:
    """The server never sees them, and the connection lives on."""
    with FaultProxy(stored.server.endpoint) as proxy:
        own = stored.client(proxy.endpoint, max_pool_connections=1)
        calls: list[Callable[[], Any]] = [
            lambda: own.put_object(Bucket=stored.name, Key="new", Body=PART),
            lambda: own.get_object(Bucket=stored.name, Key="key"),
            lambda: own.head_object(Bucket=stored.name, Key="key"),
        ]
        for call in calls:
            proxy.faults = [Fault(Kind(kind), times=1)]
            with pytest.raises(ClientError) as caught:
                call()
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
            assert caught.value.response["Error"]["Code"] in (code, str(status))  # HEAD has no body to say more
        assert [entry["Key"] for entry in own.list_objects_v2(Bucket=stored.name)["Contents"]] == ["key"]
        assert proxy.injected() == {Kind(kind): 3}


def test_a_client_that_retries_gets_through_a_burst(stored: Bucket) -> None:
    with FaultProxy(stored.server.endpoint, [Fault(Kind.SLOW_DOWN, burst=2, times=2)]) as proxy:
        own = stored.client(proxy.endpoint, retries={"total_max_attempts": 3, "mode": "standard"})
        assert own.get_object(Bucket=stored.name, Key="key")["Body"].read() == PART
        assert [request.status for request in proxy.requests] == [503, 503, 200]


def test_latency(stored: Bucket) -> None:
    with FaultProxy(stored.server.endpoint, [Fault(Kind.LATENCY, seconds=0.3)]) as proxy:
        start = time.monotonic()
        assert get(stored, proxy, "key", Range="bytes=0-9") == PART[:10]
        assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize(
    ("kind", "errors"),
    [
        (Kind.RESET, (ResponseStreamingError, ConnectionClosedError)),
        (Kind.TRUNCATE, (ResponseStreamingError, IncompleteReadError)),
        (Kind.STALL, ReadTimeoutError),
    ],
)
def test_a_body_that_breaks_off(stored: Bucket, kind: Kind, errors: Any) -> None:
    with FaultProxy(stored.server.endpoint, [Fault(kind, seconds=60)]) as proxy:
        for options in ({}, {"Range": "bytes=100-2000000"}):
            with pytest.raises(errors):
                get(stored, proxy, "key", **options)
        proxy.faults = []
        assert get(stored, proxy, "key") == PART
        assert [request.fault for request in proxy.requests] == [kind, kind, Kind.NONE]
        assert [request.status for request in proxy.requests] == [200, 206, 200]


@pytest.mark.parametrize("kind", [Kind.RESET, Kind.TRUNCATE, Kind.STALL])
def test_an_answer_without_a_body_that_is_lost(s3: Bucket, kind: Kind) -> None:
    """The server has done it, the client does not know."""
    with FaultProxy(s3.server.endpoint, [Fault(kind, seconds=60)]) as proxy:
        own = s3.client(proxy.endpoint, read_timeout=3)
        with pytest.raises(HTTPClientError):
            own.put_object(Bucket=s3.name, Key="key", Body=TAIL)
        assert [request.status for request in proxy.requests] == [200]
    assert s3.client().get_object(Bucket=s3.name, Key="key")["Body"].read() == TAIL


def test_a_reset_is_a_reset(stored: Bucket) -> None:
    """RST, not the end of a stream; a stall is neither; a truncated body ends in good order."""
    seen = {}
    for kind in (Kind.RESET, Kind.TRUNCATE, Kind.STALL):
        with FaultProxy(stored.server.endpoint, [Fault(kind, seconds=0.5)]) as proxy:
            url = stored.client(proxy.endpoint).generate_presigned_url(
                "get_object", {"Bucket": stored.name, "Key": "key"}
            )
            with connected(proxy) as sock:
                sock.settimeout(0.25)
                host = proxy.endpoint.removeprefix("http://")
                sock.sendall(f"GET {url.removeprefix(proxy.endpoint)} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                got = 0
                try:
                    while data := sock.recv(1 << 20):
                        got += len(data)
                    seen[kind] = "end"
                except OSError as error:
                    seen[kind] = type(error).__name__
                assert len(PART) // 2 < got < len(PART) // 2 + 2000
    assert seen == {Kind.RESET: "ConnectionResetError", Kind.TRUNCATE: "end", Kind.STALL: "TimeoutError"}


def test_silence_before_the_body(s3: Bucket) -> None:
    """botocore waits a second for 100 Continue, then sends all the same."""
    with FaultProxy(s3.server.endpoint, [Fault(Kind.SILENCE, seconds=60)]) as proxy:
        start = time.monotonic()
        assert put(s3, proxy, "key", PART)["ETag"] == md5(PART)
        assert 0.9 < time.monotonic() - start < 30
        assert get(s3, proxy, "key") == PART  # nothing to be silent about
        assert [request.fault for request in proxy.requests] == [Kind.SILENCE, Kind.NONE]


def test_a_wrong_etag(stored: Bucket) -> None:
    with FaultProxy(stored.server.endpoint, [Fault(Kind.WRONG_ETAG)]) as proxy:
        own = stored.client(proxy.endpoint)
        etags = {
            own.put_object(Bucket=stored.name, Key="new", Body=PART)["ETag"],
            own.head_object(Bucket=stored.name, Key="new")["ETag"],
            own.get_object(Bucket=stored.name, Key="new")["ETag"],
        }
        (wrong,) = etags
        assert len(wrong) == len(md5(PART))
        assert wrong[2:] == md5(PART)[2:]
        assert wrong[1] != md5(PART)[1]
        own.list_objects_v2(Bucket=stored.name)  # has no such header
        assert proxy.injected() == {Kind.WRONG_ETAG: 3}


def test_duplicates(s3: Bucket) -> None:
    """The server does it twice: a put that must be the first is refused by itself."""
    with FaultProxy(s3.server.endpoint, [Fault(Kind.DUPLICATE)]) as proxy:
        with pytest.raises(ClientError, match="PreconditionFailed"):
            put(s3, proxy, "key", PART, IfNoneMatch="*")
        assert put(s3, proxy, "key", PART)["ETag"] == md5(PART)
        assert get(s3, proxy, "key") == PART
        own = s3.client(proxy.endpoint)
        name = {"Bucket": s3.name, "Key": "shard"}
        name["UploadId"] = own.create_multipart_upload(**name)["UploadId"]
        own.upload_part(**name, PartNumber=1, Body=TAIL)
        uploads = own.list_multipart_uploads(Bucket=s3.name)["Uploads"]
        assert len(uploads) == 2
        listed = own.list_parts(**name)["Parts"]
        assert [part["ETag"] for part in listed] == [md5(TAIL)] * (1 if isinstance(s3.server, Moto) else 2)
        assert proxy.injected() == {Kind.DUPLICATE: 7}


def test_only_some_requests(s3: Bucket) -> None:
    with FaultProxy(s3.server.endpoint, [Fault(Kind.SLOW_DOWN, match=is_part)]) as proxy:
        own = s3.client(proxy.endpoint)
        name = {"Bucket": s3.name, "Key": "shard"}
        name["UploadId"] = own.create_multipart_upload(**name)["UploadId"]
        with pytest.raises(ClientError, match="SlowDown"):
            own.upload_part(**name, PartNumber=1, Body=TAIL)
        own.put_object(Bucket=s3.name, Key="key", Body=TAIL)
        assert [request.fault for request in proxy.requests] == [Kind.NONE, Kind.SLOW_DOWN, Kind.NONE]
        assert [request.method for request in proxy.requests] == ["POST", "PUT", "PUT"]
        assert proxy.requests[1].path == f"/{s3.name}/shard"


def struck(share: float, seed: int, burst: int = 1) -> list[bool]:
    """Which of 1,000 requests in a row a fault strikes."""
    proxy = FaultProxy("http://127.0.0.1:1", [Fault(Kind.RESET, share, burst=burst)], seed)
    fault = proxy.faults[0]
    return [fault.strikes(Request("GET", "/", "", None, False), proxy.random.random) for _ in range(1000)]


def test_the_share_is_drawn_by_seed() -> None:
    assert struck(0.05, 1) == struck(0.05, 1) != struck(0.05, 2)
    assert 20 < sum(struck(0.05, 1)) < 90
    assert sum(struck(0, 1)) == 0
    assert sum(struck(1, 1)) == 1000
    bursts = "".join("x" if hit else "." for hit in struck(0.01, 1, burst=4)).split(".")
    assert {len(burst) % 4 for burst in bursts[:-1]} == {0}


def test_what_is_under_way_ends_with_the_proxy(stored: Bucket) -> None:
    before = threading.active_count()
    with FaultProxy(stored.server.endpoint, [Fault(Kind.STALL, seconds=600)]) as proxy:
        own = stored.client(proxy.endpoint)
        body = own.get_object(Bucket=stored.name, Key="key")["Body"]
        start = time.monotonic()
    assert time.monotonic() - start < 5
    assert threading.active_count() == before
    with pytest.raises((ResponseStreamingError, IncompleteReadError)):
        body.read()


def test_a_client_that_gives_up_ends_the_connection_to_the_server() -> None:
    with socket.create_server((HOST, 0)) as listener:
        proxy = FaultProxy(f"http://{HOST}:{listener.getsockname()[1]}")
        with proxy, connected(proxy) as client:
            client.sendall(b"GET /key HTTP/1.1\r\n\r\n")
            server, _ = listener.accept()
            with server:
                server.settimeout(10)
                assert server.recv(100) == b"GET /key HTTP/1.1\r\n\r\n"
                client.close()
                assert server.recv(100) == b""


def test_a_server_that_is_down() -> None:
    (port,) = free_ports(1)
    proxy = FaultProxy(f"http://{HOST}:{port}")
    with proxy, pytest.raises(ConnectionResetError), connected(proxy) as sock:
        sock.recv(1)
