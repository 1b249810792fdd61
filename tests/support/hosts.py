"""Several hosts on one machine, from Linux namespaces: each with its own address, processes, name, files and /dev/shm.

They hang on a switch without an uplink, so that nothing they do leaves it, and have no names on this machine: two runs
side by side do not meet. A host lives as long as its first process. When that is killed the kernel ends all others on
it, its link and its mounts, and it is killed when the test run ends, however that ends.
"""

from __future__ import annotations

import ctypes
import functools
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Where a host has its own files.
HOME = Path("/mnt")
_TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux"}
_CLONE_NEWNET = 0x40000000
_SPACES = ["--net", "--mount", "--uts", "--pid", "--ipc"]
#: The first process: it prepares the host, tells so, and from then on only gathers the processes that have ended.
_FIRST = """
set -e
hostname "$1"; ip link set lo up; mount -t tmpfs -o size=1g shm /dev/shm; mount --bind "$2" /mnt; mkdir -p /mnt/tmp
echo ready
exec >/dev/null
sleep infinity & wait
"""


@functools.cache
def why_not() -> str | None:
    """Why there can be no hosts here; None when there can."""
    if missing := {package for tool, package in _TOOLS.items() if shutil.which(tool) is None}:
        return f"hosts need {' and '.join(sorted(missing))} (apt-get install {' '.join(sorted(missing))})"
    if os.geteuid() != 0:
        return "hosts need root: they are Linux namespaces with addresses of their own"
    probe = subprocess.run(["unshare", *_SPACES, "--fork", "true"], capture_output=True, text=True, check=False)
    return None if probe.returncode == 0 else f"hosts need Linux namespaces: {probe.stderr.strip()}"


class Host:
    """One host. Its files lie in ``folder``, which it sees as ``HOME``."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        folder.mkdir(parents=True, exist_ok=True)
        first = ["bash", "-c", _FIRST, "host", name, str(folder)]
        # The one dies with this test run, the other with the one.
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *_SPACES, "--mount-proc", "--kill-child", *first],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"host {name} did not come up: exit code {self._holder.wait()}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text()
        self.first = int(children.split()[0])
        self._started: list[subprocess.Popen[str]] = []

    def command(self, *command: str | Path) -> list[str]:
        """What runs a command on this host; it ends with whoever runs it."""
        enter = ["nsenter", f"--target={self.first}", *_SPACES, "--"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", "--", "env", f"--chdir={HOME}", *map(str, command)]

    def start(self, *command: str | Path, environment: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
        """A command on this host, alongside; options are Popen's."""
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(self.command(*command), env=self._own(environment), text=True, **options)
        self._started.append(process)
        return process

    def run(
        self, *command: str | Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """A command on this host, to its end."""
        return subprocess.run(
            self.command(*command), env=self._own(environment), timeout=timeout,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def processes(self) -> dict[int, str]:
        """Command lines of what runs on it, by this machine's process numbers."""
        space = Path(f"/proc/{self.first}/ns/pid").readlink()
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "ns/pid").readlink() == space:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue  # it has ended meanwhile
        return found

    @contextmanager
    def network(self) -> Iterator[None]:
        """What this thread connects to or listens on within, it does from this host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as before, open(f"/proc/{self.first}/ns/net") as there:
            _enter(libc, there.fileno())
            try:
                yield
            finally:
                _enter(libc, before.fileno())

    def stop(self) -> None:
        """SIGSTOP everything on it but its first process: it keeps its address and answers to nothing."""
        self._all("STOP")

    def go_on(self) -> None:
        self._all("CONT")
        self._wake()

    def kill(self) -> None:
        """It is gone at once, with its processes, its link and its /dev/shm; its folder stays."""
        if self._holder.poll() is None:
            first = os.pidfd_open(self.first)
            try:
                self._holder.kill()
                self._wake()  # or it would not bury what it ran
                select.select([first], [], [], 60)  # it ends when all others have
            finally:
                os.close(first)
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    def _all(self, name: str) -> None:
        # One after another they would see each other stop; to all at once, by the shell's own kill, they do not.
        subprocess.run(self.command("bash", "-c", f"kill -{name} -1"), check=True)

    def _wake(self) -> None:
        for process in self._started:  # nsenter stops along with what it runs
            process.send_signal(signal.SIGCONT)

    def _own(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {**environment, "HOME": str(HOME), "TMPDIR": f"{HOME}/tmp"}


class Hosts:
    """Hosts at 10.99.0.1 and on, by name, and the switch between them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hosts: dict[str, Host] = {}
        self._switch = Host("switch", "", folder / "switch")
        self._ip(self._switch, "link add br0 type bridge")
        self._ip(self._switch, "link set br0 up")

    def add(self, name: str) -> Host:
        """A new host; under the name of one that was killed, the same machine started again."""
        number = list(self._hosts).index(name) + 1 if name in self._hosts else len(self._hosts) + 1
        host = Host(name, f"10.99.0.{number}", self._folder / name)
        self._hosts[name] = host
        self._ip(self._switch, f"link add {name} type veth peer name eth0 netns {host.first}")
        self._ip(self._switch, f"link set {name} master br0 up")
        self._ip(host, f"addr add {host.address}/24 dev eth0")
        self._ip(host, "link set eth0 up")
        return host

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def cut(self, name: str) -> None:
        """Take a host's link down: nothing gets through, and nobody is told."""
        self._ip(self._switch, f"link set {name} down")

    def mend(self, name: str) -> None:
        self._ip(self._switch, f"link set {name} up")

    def close(self) -> None:
        for host in [*self._hosts.values(), self._switch]:
            host.kill()

    @staticmethod
    def _ip(host: Host, arguments: str) -> None:
        enter: Sequence[str] = ["nsenter", f"--target={host.first}", "--net", "ip", *arguments.split()]
        done = subprocess.run(enter, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ip {arguments}: {done.stderr.strip()}")


def _enter(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter the host's network")
