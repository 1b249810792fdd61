"""From S3 to S3 over a network and a store that misbehave: the same bytes, or an end in time that can be resumed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from svc_dist.errors import ExitCode, StorageError
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.landing import FileTarget
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3.storage import S3Storage
from tests.support.command import run
from tests.support.dying import DIED, Death, start
from tests.support.fault_proxy import Fault, FaultProxy, Kind, Request, is_part
from tests.support.s3_merge import MAX_RANGE, Models, S3Merge, Starts, models_in
from tests.support.s3_servers import Bucket
from tests.system.conftest import own_bucket

pytestmark = pytest.mark.usefixtures("many_ranges")
SHARE = 0.05
#: Longer than any request may take here.
FOREVER = 60.0
TIMEOUT = 0.8
KINDS = [kind for kind in Kind if kind]
#: A part is sent again after these. (It does not wait for 100 Continue, smaller objects do.)
RETRIED = [Kind.INTERNAL_ERROR, Kind.SLOW_DOWN, Kind.RESET, Kind.TRUNCATE, Kind.STALL]
#: The HTTP client itself sends a PUT again, once and uncounted, when a connection that it kept ends before the answer.
SENT_AGAIN = (Kind.RESET, Kind.TRUNCATE)


@pytest.fixture
def starts(disk_s3: Bucket, disk_models: Models) -> Iterator[Starts]:
    with FaultProxy(disk_s3.server.endpoint, seed=1) as proxy:
        yield Starts(S3Merge(disk_s3, disk_models), proxy)


def is_get(request: Request) -> bool:
    return request.method == "GET" and ".safetensors" in request.path and request.range is not None


def fault(kind: Kind, share: float, match: Callable[[Request], bool] = lambda request: True) -> Fault:
    seconds = 0.2 if kind is Kind.LATENCY else FOREVER
    burst = 4 if kind is Kind.SLOW_DOWN else 1
    return Fault(kind, share / burst if share < 1 else 1.0, match, burst=burst, seconds=seconds)


#: Of each way to fail one; the others run with the long tests, and all of them together in the next one.
OFTEN = (Kind.INTERNAL_ERROR, Kind.TRUNCATE, Kind.DUPLICATE)


@pytest.mark.parametrize("kind", [k if k in OFTEN else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_a_few_requests_go_wrong(starts: Starts, kind: Kind) -> None:
    proxy, merge = starts.proxy, starts.merge
    # One part for certain: of few requests none may be struck.
    proxy.faults = [Fault(kind, times=1, match=is_part, seconds=FOREVER), fault(kind, SHARE)]
    merge.run(proxy.endpoint, timeout=TIMEOUT)
    assert proxy.injected()[kind] > 1
    merge.require_complete()
    struck = [request for request in proxy.requests if request.fault is kind and is_part(request)]
    if kind in RETRIED:
        assert struck
        for request in struck:
            sent = [r for r in proxy.requests if (r.method, r.path, r.query) == ("PUT", request.path, request.query)]
            assert len(sent) > 1
    if kind in RETRIED and kind not in SENT_AGAIN:
        assert merge.report()["storage_retries"] >= len(struck)


def test_everything_goes_wrong_now_and_then(starts: Starts) -> None:
    proxy, merge = starts.proxy, starts.merge
    proxy.faults = [fault(kind, 2 * SHARE / len(KINDS)) for kind in KINDS]
    # A store may take minutes to complete an upload: a client waits for a completion that stalls, then tries again.
    merge.run(proxy.endpoint, timeout=TIMEOUT, deadline=4 * FOREVER)
    assert len(proxy.injected()) > 3
    merge.require_complete()
    assert merge.report()["storage_retries"] > 0


MATCHES: dict[str, Callable[[Request], bool]] = {
    "everything": lambda request: True,
    "parts": is_part,
    "reads": is_get,
}


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Kind.SLOW_DOWN, "everything"),
        (Kind.STALL, "parts"),
        *(
            pytest.param(kind, what, marks=pytest.mark.slow)
            for kind, what in [
                (Kind.RESET, "reads"),
                (Kind.RESET, "everything"),
                (Kind.STALL, "everything"),
                (Kind.TRUNCATE, "everything"),
                (Kind.RESET, "parts"),
                (Kind.INTERNAL_ERROR, "parts"),
                (Kind.STALL, "reads"),
                (Kind.WRONG_ETAG, "reads"),
            ]
        ),
    ],
)
def test_all_requests_go_wrong(starts: Starts, kind: Kind, what: str) -> None:
    proxy, merge = starts.proxy, starts.merge
    proxy.faults = [fault(kind, 1.0, MATCHES[what])]
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"\((list_objects_v2|head_object|upload_part|get_object)\)") as raised:
        merge.run(proxy.endpoint, timeout=1, deadline=3)
    assert raised.value.exit_code == ExitCode.STORAGE
    assert "failed after" in str(raised.value)
    assert "run the same command again" in str(raised.value)
    assert time.monotonic() - began < 8
    starts.check()
    proxy.faults = []
    merge.run(proxy.endpoint)
    starts.check()
    merge.require_complete()


@pytest.mark.slow
def test_an_outage_in_the_middle_costs_one_deadline(starts: Starts) -> None:
    """What a run still has to write when it gives up waits a moment only."""
    proxy, merge, out = starts.proxy, starts.merge, threading.Event()

    def from_the_first_part_on(request: Request) -> bool:
        if is_part(request):
            out.set()
        return out.is_set()

    proxy.faults = [fault(Kind.STALL, 1.0, from_the_first_part_on)]
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"failed after"):
        merge.run(proxy.endpoint, timeout=5, deadline=20)
    assert time.monotonic() - began < 2 * 20
    proxy.faults = []
    merge.run(proxy.endpoint)
    merge.require_complete()


@pytest.mark.slow
def test_the_store_is_killed_three_times(disk_s3: Bucket, disk_models: Models) -> None:
    merge, server = S3Merge(disk_s3, disk_models), disk_s3.server
    with ThreadPoolExecutor(1) as pool:
        merging = pool.submit(merge.run, slots=1)
        for receipts in (1, 4, 7):
            while len(merge.receipts()) < receipts:
                assert not merging.done()
                time.sleep(0.02)
            server.kill()
            time.sleep(1)
            server.start()
        report = merging.result()
    assert report.units_resumed == 0
    merge.require_complete()
    assert merge.report()["storage_retries"] > 0


# Uploads that others touch


LARGE = "model-00001-of-00009.safetensors"


def stopped(merge: S3Merge) -> list[str]:
    """Kill a merge that has all units of the large shard, before it is completed: the ids of the uploads of that."""
    process = start(merge.recipe, merge.url, Death("complete_upload", "before", LARGE))
    process.join(60)
    assert process.exitcode == DIED
    return merge.uploads()[f"{merge.output}/{LARGE}"]


def large_parts(starts: Starts) -> list[int]:
    """Numbers of the parts of the large shard that the proxy saw."""
    return sorted(number for file, number in starts.merge.parts_sent(starts.proxy.requests) if file == LARGE)


def test_an_upload_that_vanished_while_the_merge_was_stopped_is_begun_anew(starts: Starts) -> None:
    merge = starts.merge
    for upload in stopped(merge):
        key = f"{merge.output}/{LARGE}"
        merge.bucket.client().abort_multipart_upload(Bucket=merge.bucket.name, Key=key, UploadId=upload)
    done = len(merge.receipts())
    report = merge.run(starts.proxy.endpoint)
    assert report.units_resumed == done - 3
    assert large_parts(starts) == [1, 2, 3]
    merge.require_complete()


def test_an_upload_that_vanishes_before_it_is_completed_is_begun_anew(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = starts.merge
    complete = S3Storage.complete_upload
    dropped = []

    def dropping(self: S3Storage, name: str, upload: str, etags: Sequence[str]) -> None:
        if name == LARGE and not dropped:
            dropped.append(upload)
            self.abort_upload(name, upload)
        complete(self, name, upload, etags)

    monkeypatch.setattr(S3Storage, "complete_upload", dropping)
    merge.run()
    assert dropped
    merge.require_complete()


@pytest.mark.parametrize("server", [pytest.param("seaweed", marks=pytest.mark.slow), "moto"])
def test_a_part_that_somebody_replaced_is_written_again(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SeaweedFS keeps every version of a part: there the one that was sent is taken."""
    store = request.getfixturevalue(server)
    with models_in(store, tmp_path / "models") as models:
        for bucket in own_bucket(store, monkeypatch):
            merge = S3Merge(bucket, models)
            (upload,) = stopped(merge)
            bucket.client().upload_part(
                Bucket=bucket.name, Key=f"{merge.output}/{LARGE}", UploadId=upload, PartNumber=2, Body=b"x" * MAX_RANGE
            )
            done = len(merge.receipts())
            with FaultProxy(store.endpoint) as proxy:
                report = merge.run(proxy.endpoint)
                assert large_parts(Starts(merge, proxy)) == ([2] if server == "moto" else [])
            assert report.units_resumed == done - (server == "moto")
            merge.require_complete()


def test_the_command_gives_up_in_time(starts: Starts, tmp_path: Path) -> None:
    merge, proxy = starts.merge, starts.proxy
    recipe = merge.write_recipe(tmp_path / "recipe.yaml")
    limits = ("--storage-deadline", "4", "--storage-timeout", "4", "--endpoint-url", proxy.endpoint)
    proxy.faults = [fault(Kind.STALL, 1.0, is_part)]
    said = run("merge", recipe, merge.url, *limits, home=tmp_path, expect=ExitCode.STORAGE).err
    assert "(upload_part)" in said
    assert "run the same command again" in said
    proxy.faults = []
    run("merge", recipe, merge.url, *limits, home=tmp_path)
    assert set(merge.keys()) >= {"model.safetensors.index.json", "merge_report.json"}


def test_a_slow_connection_is_not_a_stalled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that takes much longer than the timeout, but keeps coming, is read in one go."""
    body = bytes(range(256)) * 4096
    asked = []

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(206)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            for first in range(0, len(body), 1 << 16):
                time.sleep(0.1)
                self.wfile.write(body[first : first + (1 << 16)])

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server, (tmp_path / "body").open("w+b") as file:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        options = ClientOptions(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        objects = S3Storage("s3://bucket/model", Access({"": options}, timeout=0.5, deadline=1))
        planned = FileIdentity("file", len(body), 'etag:"1"')
        objects.fetch(planned, 0, len(body), FileTarget(file.fileno(), 0, len(body)), Retries())
        server.shutdown()
        assert file.read() == body
    assert len(asked) == 1
