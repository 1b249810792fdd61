"""A Ray cluster over several hosts and an S3 server on one of its own, as the files of cluster/ set one up."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.command import command
from tests.support.hosts import Host, Hosts
from tests.support.s3_files import listing, model_hashes, read
from tests.support.s3_servers import Bucket, SeaweedFS

PORT = 6379
#: Those of cluster/, shortened: a killed node is known to be dead in some 3 s, a silent connection in 10 s.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
#: A node that ends is started again, as Kubernetes does it.
_ALWAYS = 'while :; do "$@"; sleep 1; done'
_WAIT = """
import sys, time, ray
while True:
    try:
        ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
        break
    except ConnectionError:
        time.sleep(0.5)
while sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.2)
"""


class HostedSeaweed(SeaweedFS):
    """SeaweedFS on a host, known by its address only to the others on its switch."""

    def __init__(self, machine: Host, folder: Path) -> None:
        super().__init__(folder)
        self.machine, self.host = machine, machine.address

    def command(self) -> list[str]:
        return self.machine.command(*super().command())

    def _status(self) -> int | None:
        with self.machine.network():
            return super()._status()


class Driver:
    """A merge command on a host, alongside."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self.began = time.monotonic()

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float = 240) -> tuple[int, float]:
        """Its exit code, and the seconds that it took."""
        try:
            return self._process.wait(timeout), time.monotonic() - self.began
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {timeout:g} s:\n{self.said()}") from None

    def said(self) -> str:
        """Its log: JSON lines."""
        return self._log.read_text()

    def wait_to_say(self, text: str, timeout: float = 240) -> None:
        """Until its log holds some text."""
        end = time.monotonic() + timeout
        while text not in self.said():
            assert self.code is None, f"it ended with {self.code}:\n{self.said()}"
            assert time.monotonic() < end, f"it does not say {text!r}:\n{self.said()}"
            time.sleep(0.05)

    def done(self) -> dict[str, Any]:
        """What it says of the merge at its end."""
        return dict(json.loads(self.said().splitlines()[-1]))


class HostCluster:
    """A head without work and workers of one CPU each, on hosts of their own; ``bucket`` is on the host ``store``."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder = folder
        self.workers = [f"w{number}" for number in range(1, workers + 1)]
        self.hosts = Hosts(folder)
        try:
            for name in ("store", "head", *self.workers):
                self.hosts.add(name)
            self.server = HostedSeaweed(self.hosts["store"], folder / "seaweed").start()
            self.bucket = Bucket(self.server, "bucket")
            with self.hosts["store"].network():
                self.server.make_bucket(self.bucket.name)
            (folder / "token").touch(mode=0o600)
            (folder / "token").write_text(secrets.token_hex(32))
            self.start_head()
            for name in self.workers:
                self.start_node(name)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        return f"{self.hosts['head'].address}:{PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """Of all that runs on its hosts."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
        more = {"RAY_AUTH_TOKEN_PATH": str(self.folder / "token"), "RAY_TMPDIR": "/mnt", "HF_HUB_OFFLINE": "1"}
        return own | SETTINGS | more | self.server.environment

    def start_head(self) -> None:
        self._node("head", 0, "--head", f"--port={PORT}", "--include-dashboard=false")

    def start_node(self, name: str, cpus: int = 1) -> None:
        """A node that is started again whenever it ends; with no CPUs, one for a driver only."""
        self._node(name, cpus, f"--address={self.address}")

    def wait_for(self, workers: int) -> None:
        """Until so many workers are there."""
        script = [sys.executable, "-c", _WAIT, self.address, str(workers)]
        done = self.hosts["head"].run(*script, environment=self.environment, timeout=180)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def merge(self, recipe: Path, output: str, *options: str, on: str = "head") -> Iterator[Driver]:
        """The merge command on a host, from here into ``output`` in the bucket; killed at the end if it is there."""
        log = self.folder / f"driver-{time.monotonic_ns()}.log"
        arguments = command(
            "merge", recipe, f"{self.bucket.url}/{output}", "--address", self.address, "--log-format", "json", *options
        )
        with log.open("w") as file:
            process = self.hosts[on].start(*arguments, environment=self.environment, stdout=file, stderr=file)
        try:
            yield Driver(process, log)
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def s3(self) -> Iterator[Any]:
        """A plain client of the store."""
        with self.hosts["store"].network():
            yield self.bucket.client()

    def close(self) -> None:
        self.hosts.close()
        if hasattr(self, "server"):
            self.server.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _node(self, name: str, cpus: int, *options: str) -> None:
        host = self.hosts[name]
        (host.folder / "ray").mkdir(exist_ok=True)
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={host.address}"]
        start += [f"--num-cpus={cpus}", "--object-store-memory=100000000", "--disable-usage-stats", *options]
        with (self.folder / f"node-{name}.log").open("a") as log:
            host.start("bash", "-c", _ALWAYS, "node", *start, environment=self.environment, stdout=log, stderr=log)


#: A unit's receipt: its ETag and time, and the host that did the unit.
Receipts = dict[str, tuple[str, Any, str]]


class HostedMerge:
    """A merge from the bucket of a cluster into it, whose shards must have the hashes ``expected``."""

    def __init__(self, cluster: HostCluster, recipe: Path, expected: dict[str, str], output: str = "merged") -> None:
        self.cluster, self.recipe, self.expected, self.output = cluster, recipe, expected, output

    def start(self, *options: str, on: str = "head") -> AbstractContextManager[Driver]:
        return self.cluster.merge(self.recipe, self.output, *options, on=on)

    def receipts(self) -> Receipts:
        """Those that are there."""
        folder = f"{self.output}/.svc_dist/receipts/"
        found = {}
        with self.cluster.s3() as s3:
            for key, version in listing(self.cluster.bucket, folder).items():
                try:
                    receipt = json.loads(s3.get_object(Bucket=self.cluster.bucket.name, Key=key)["Body"].read())
                except s3.exceptions.NoSuchKey:
                    continue  # the merge is complete
                found[key.removeprefix(folder)] = (*version, receipt["host"])
        return found

    def wait(self, driver: Driver, reached: Callable[[Receipts], bool], timeout: float = 240) -> Receipts:
        """Until the receipts are as wanted, which they must be before it ends."""
        end = time.monotonic() + timeout
        while not reached(found := self.receipts()):
            assert driver.code is None, f"it ended with {driver.code}:\n{driver.said()}"
            assert time.monotonic() < end, driver.said()
            time.sleep(0.05)
        return found

    def require_complete(self, driver: Driver, timeout: float = 240) -> float:
        """It ends with exit code 0 and the expected bytes are there, no run folder. Seconds that it took."""
        code, seconds = driver.wait(timeout)
        assert code == 0, driver.said()
        self.require_published()
        return seconds

    def require_published(self) -> None:
        with self.cluster.s3():
            assert model_hashes(self.cluster.bucket, self.output) == self.expected
            assert not [key for key in listing(self.cluster.bucket, self.output) if ".svc_dist" in key]

    def report(self) -> dict[str, Any]:
        with self.cluster.s3():
            return dict(json.loads(read(self.cluster.bucket, f"{self.output}/merge_report.json")))


def done_by(*hosts: str, units: int) -> Callable[[Receipts], bool]:
    """Whether so many units are done, and each of these hosts has done some."""
    return lambda receipts: len(receipts) >= units and {receipt[2] for receipt in receipts.values()} >= {*hosts}
