"""A Ray cluster of several nodes on this machine, each with an address and processes of its own, which can be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.command import PROGRAM, environment, short_home
from tests.support.s3_servers import free_ports

PATIENCE = 240.0  # seconds that anything here may take on a machine that is busy


class RayCluster:
    """A head without CPUs, and worker nodes that are started, stopped and killed one by one."""

    def __init__(self, home: Path, *options: str, **variables: str) -> None:
        self.home = home
        self.environment = environment(home) | {
            "RAY_AUTH_MODE": "disabled",  # its addresses are this machine's own
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "3",
            **variables,
        }
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self._commands: dict[str, tuple[list[str], dict[str, str]]] = {}
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._start(
            "head", "127.0.0.1", "--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=0", *options
        )
        self.wait_for("head")

    def node(self, number: int, *options: str, **variables: str) -> str:
        """Start a worker node of one CPU. Its name."""
        name = f"node{number}"
        self._start(name, f"127.0.0.{number + 1}", f"--address={self.address}", "--num-cpus=1", *options, **variables)
        return name

    def processes(self, node: str) -> list[int]:
        """The processes of a node: Ray's and its workers."""
        return _having(f"TEST_NODE={self.home}/{node}\0")

    def signal(self, node: str, number: signal.Signals) -> None:
        for pid in self.processes(node):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def workers(self, task: str, node: str = "") -> list[int]:
        """The worker processes that run a task of this name now."""
        mark = f"TEST_NODE={self.home}/{node}"
        return [pid for pid in _having(mark) if _title(pid).startswith(f"ray::{task}")]

    def unit_processes(self, node: str = "") -> list[int]:
        """The processes that run units, or are ready to."""
        return [pid for task in ("merge_unit", "UnitProcess") for pid in self.workers(task, node)]

    @contextmanager
    def merge(self, *arguments: str | Path, program: Sequence[str] = PROGRAM) -> Iterator[Merge]:
        """A merge on the cluster that runs alongside. ``program``: what starts the command."""
        merge = Merge(self, *arguments, program=program)
        try:
            yield merge
        finally:
            merge.process.kill()
            merge.process.wait()

    def stop(self) -> None:
        for pid in _having(f"HOME={self.home}\0"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started.values():
            process.wait()

    def _start(self, name: str, ip: str, *options: str, **variables: str) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        mine = self.environment | {"TEST_NODE": f"{self.home}/{name}"} | variables
        self._commands[name] = [*ray, f"--node-ip-address={ip}", "--object-store-memory=100000000", *options], mine
        self._launch(name)

    def _launch(self, name: str) -> None:
        command, mine = self._commands[name]
        with (self.home / f"{name}.log").open("w") as log:
            self._started[name] = subprocess.Popen(command, env=mine, stdout=log, stderr=log, start_new_session=True)

    def wait_for(self, node: str) -> None:
        """Until a node is up; on a busy machine Ray may give up on its start, and it is started again."""
        until = time.monotonic() + PATIENCE
        while "Ray runtime started" not in (said := (self.home / f"{node}.log").read_text()):
            assert time.monotonic() < until, said
            if self._started[node].poll() is not None:
                for pid in self.processes(node):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._launch(node)
            time.sleep(0.2)


class Merge:
    """A merge command with the cluster's address, whose standard error goes to a file."""

    def __init__(self, cluster: RayCluster, *arguments: str | Path, program: Sequence[str] = PROGRAM) -> None:
        self.log = cluster.home / "merge.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*program, "merge", *map(str, arguments), "--address", cluster.address, "--log-format", "json"],
                env=cluster.environment, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.log.read_text()

    def ends(self) -> int:
        """The exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said) from None

    def until(self, reached: Callable[[], object]) -> None:
        """Wait until ``reached()`` holds, while the merge runs."""
        until = time.monotonic() + PATIENCE
        while not reached():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.01)


@contextmanager
def ray_cluster(nodes: int, *options: str, **variables: str) -> Iterator[RayCluster]:
    with short_home() as home:
        cluster = RayCluster(home, *options, **variables)
        try:
            for node in [cluster.node(number) for number in range(1, nodes + 1)]:
                cluster.wait_for(node)
            yield cluster
        finally:
            cluster.stop()


def _having(text: str) -> list[int]:
    """Processes in whose environment a text is."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if text.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    return ""


def receipts(output: Path) -> list[str]:
    """The units of a merge that have left a receipt."""
    with suppress(OSError):
        return [path.stem for path in (output / ".svc_dist" / "receipts").iterdir() if not path.name.startswith(".")]
    return []
