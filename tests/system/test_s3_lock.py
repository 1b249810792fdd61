"""One live run per output on S3: refused while another lives, taken over once it is dead, stopped when it lost out."""

from __future__ import annotations

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.checks.clean import clean
from svc_dist.checks.status import read_status
from svc_dist.errors import ExitCode, LockedError
from svc_dist.run.placement import AHEAD
from svc_dist.run_folder import lock
from svc_dist.run_folder.lock import RemoteLock
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.starts import holder as holders
from svc_dist.run_folder.starts.holder import EXPIRY, content, machine
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.s3.storage import S3Storage
from tests.support.checkpoints import write_recipe
from tests.support.command import shard_hashes, started
from tests.support.fault_proxy import Fault, FaultProxy, Kind
from tests.support.s3_files import listing, model_hashes, moto_is_slow, put, put_models, read, stopping_after, uploads
from tests.support.s3_servers import Bucket

LOCK = "out/.svc_dist/lock"


@pytest.fixture(scope="module")
def expected(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("expected")
    svc_dist.merge(write_recipe(folder / "recipe.yaml", models, max_shard_size="700B"), folder / "out")
    return shard_hashes(folder / "out")


@pytest.fixture
def recipe(s3: Bucket, models: list[Path], tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", put_models(s3, models), max_shard_size="700B")


def holder(**changed: Any) -> bytes:
    """A lock's content, of a run on another machine unless told."""
    return json.dumps(json.loads(content("theirs")) | {"host": "other", "machine": "another"} | changed).encode()


@moto_is_slow
def test_of_two_commands_started_together_one_runs(
    s3: Bucket, recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    arguments = ("merge", recipe, f"{s3.url}/out")
    with started(*arguments, home=tmp_path) as one, started(*arguments, home=tmp_path) as other:
        said = [process.communicate(timeout=120)[1] for process in (one, other)]
        codes = [process.returncode for process in (one, other)]
    # One that came late finds it done; never do both run.
    assert sorted(codes) in ([ExitCode.DONE, ExitCode.LOCKED], [ExitCode.DONE, ExitCode.DONE]), said
    if ExitCode.LOCKED in codes:
        assert "another live run holds this output (process " in said[codes.index(ExitCode.LOCKED)]
    assert sum("merging 21 tensors" in text for text in said) == 1
    assert model_hashes(s3, "out") == expected
    assert uploads(s3) == set()
    assert listing(s3, "out/.svc_dist") == {}


@moto_is_slow
def test_a_killed_command_is_taken_over_at_once(
    s3: Bucket, recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    with started("merge", recipe, f"{s3.url}/out", "--slots", "1", home=tmp_path) as first:
        while not listing(s3, "out/.svc_dist/receipts/"):
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)  # so that it is not done before the second one has looked
        with pytest.raises(LockedError, match=f"process {first.pid} on "):
            svc_dist.merge(recipe, f"{s3.url}/out")
    assert LOCK in listing(s3)
    assert read_status(f"{s3.url}/out").state.startswith("stopped")
    report = svc_dist.merge(recipe, f"{s3.url}/out")
    assert 0 < report.units_resumed < report.units
    assert model_hashes(s3, "out") == expected
    assert listing(s3, "out/.svc_dist") == {}


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_that_take_a_lock_at_once_one_has_it(s3: Bucket, dead: bool) -> None:
    """Free, or left by a run that is dead."""
    for round_ in range(3):
        name = f"lock{round_}"
        if dead:
            put(s3, f"out/{name}", holder(machine=machine(), pid=2**22 + 1))
        barrier, together = threading.Barrier(6), threading.Barrier(6)

        def take(_: int, name: str = name, barrier: Any = barrier, together: Any = together) -> bool:
            mine = RemoteLock(S3Storage(f"{s3.url}/out"), name)
            barrier.wait()
            try:
                with mine:
                    together.wait()
                    return True
            except LockedError:
                together.wait()
                return False

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(take, range(6))) == 1
        assert listing(s3, "out/lock") == {}


def test_two_that_find_a_dead_run_one_of_them_slow(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow one writes its name when the other one has begun already."""
    put(s3, LOCK, holder(machine=machine(), pid=2**22 + 1))
    write, written = S3Storage.call, threading.Event()
    slow = RemoteLock(S3Storage(f"{s3.url}/out"), ".svc_dist/lock")
    slow_storage = slow._storage

    def waiting(self: S3Storage, operation: str, *rest: Any, **more: Any) -> Any:
        if self is slow_storage and operation == "put_object":
            written.wait(20)
        return write(self, operation, *rest, **more)

    monkeypatch.setattr(S3Storage, "call", waiting)
    with ThreadPoolExecutor(1) as pool:
        entering = pool.submit(slow.__enter__)
        time.sleep(0.2)
        with RemoteLock(S3Storage(f"{s3.url}/out"), ".svc_dist/lock") as quick:
            written.set()
            with pytest.raises(LockedError):
                entering.result()
            quick.require_held()
            assert json.loads(read(s3, LOCK))["id"] == quick._id


@moto_is_slow
@pytest.mark.parametrize("changed", [{}, {"machine": None}], ids=["another machine", "unknown machine"])
def test_a_holder_elsewhere_is_alive_until_its_heartbeat_expires(
    s3: Bucket, recipe: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    for module in (lock, holders):
        monkeypatch.setattr(module, "machine", lambda: changed.get("machine", "this one"))
    put(s3, LOCK, holder(heartbeat=0, **changed))  # by its own clock long ago, by the store's just now
    before = listing(s3)
    with pytest.raises(LockedError, match="on other") as refused:
        svc_dist.merge(recipe, f"{s3.url}/out")
    assert "expires after 60 s" in str(refused.value)
    with pytest.raises(LockedError):
        svc_dist.merge(recipe, f"{s3.url}/out", restart=True)
    assert listing(s3) == before
    time.sleep(1.1)
    monkeypatch.setattr(holders, "EXPIRY", 1)
    svc_dist.merge(recipe, f"{s3.url}/out")
    assert model_hashes(s3, "out") == expected
    assert listing(s3, "out/.svc_dist") == {}


@moto_is_slow
def test_a_live_run_is_not_cleaned(s3: Bucket, recipe: Path) -> None:
    with stopping_after(1):
        svc_dist.merge(recipe, f"{s3.url}/out")
    put(s3, LOCK, holder())
    before = listing(s3), uploads(s3)
    assert read_status(f"{s3.url}/out").state == "running"
    with pytest.raises(LockedError):
        clean(Output(f"{s3.url}/out"))
    assert (listing(s3), uploads(s3)) == before


@moto_is_slow
def test_a_run_whose_lock_was_taken_over_stops(
    s3: Bucket, recipe: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    put_object, taken_at, one_at_a_time = S3Storage.put, list[int](), threading.Lock()

    def slowly(self: S3Storage, name: str, data: bytes) -> None:
        with one_at_a_time:
            if name.endswith("receipts/000001.json"):
                put(s3, LOCK, holder())
                taken_at.append(len(listing(s3, "out/.svc_dist/receipts/")))
        if taken_at and "receipts/" in name:
            time.sleep(2)  # longer than it takes to notice
        put_object(self, name, data)

    monkeypatch.setattr(S3Storage, "put", slowly)
    with pytest.raises(LockedError, match="another run took this output over"):
        svc_dist.merge(recipe, f"{s3.url}/out", slots=1)
    assert json.loads(read(s3, LOCK))["id"] == "theirs", "it is the other one's"
    left = listing(s3, "out/.svc_dist/receipts/")
    assert len(left) <= taken_at[0] + 1 + AHEAD, "only units that were being recorded when it was taken over"
    time.sleep(2.5)
    assert listing(s3, "out/.svc_dist/receipts/") == left, "it has stopped"
    monkeypatch.setattr(S3Storage, "put", put_object)
    s3.client().delete_object(Bucket=s3.name, Key=LOCK)
    svc_dist.merge(recipe, f"{s3.url}/out")
    assert model_hashes(s3, "out") == expected


@moto_is_slow
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_beat_that_hangs_is_given_up_long_before_the_lock_expires(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Other requests have a minute: as long as the lock lives without a beat."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lock, "SHORT_DEADLINE", 0.5)
    hanging = Fault(Kind.STALL, times=1, match=lambda request: (request.method, request.path[-4:]) == (method, "lock"))
    hanging.seconds = EXPIRY
    with FaultProxy(s3.server.endpoint) as proxy:
        access = Access({"": ClientOptions(endpoint_url=proxy.endpoint)})
        with Output(f"{s3.url}/out", access).lock() as mine:
            proxy.faults = [hanging]
            until = time.monotonic() + 20
            while not proxy.injected()[Kind.STALL] and time.monotonic() < until:
                time.sleep(0.02)
            hung = json.loads(read(s3, LOCK))["heartbeat"]
            while json.loads(read(s3, LOCK))["heartbeat"] == hung and time.monotonic() < until:
                time.sleep(0.02)
            assert time.monotonic() < until
            mine.require_held()


def test_a_run_that_was_suspended_does_not_take_its_lock_back(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking whose the lock is and writing it anew, another run takes it over."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    call = S3Storage.call
    mine = RemoteLock(S3Storage(f"{s3.url}/out"), ".svc_dist/lock")
    beaten = threading.Event()

    def overtaken(self: S3Storage, operation: str, *rest: Any, **more: Any) -> Any:
        if operation == "put_object" and threading.current_thread().name == "lock-heartbeat" and not beaten.is_set():
            put(s3, LOCK, holder())
            beaten.set()
        return call(self, operation, *rest, **more)

    with mine:
        monkeypatch.setattr(S3Storage, "call", overtaken)
        assert beaten.wait(10)
        time.sleep(0.5)
        assert json.loads(read(s3, LOCK))["id"] == "theirs"
        with pytest.raises(LockedError):
            mine.require_held()
    assert json.loads(read(s3, LOCK))["id"] == "theirs"
