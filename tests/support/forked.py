"""Commands in processes forked off one that has imported the libraries: a start takes tenths of a second, not seconds.

A command imports the package anew, with the environment that it is given, as in an interpreter of its own. Tests of an
interpreter's first and last instants (what it imports when, what it calls at exit) need one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

#: All that is forked is forked off one process, which has what any of it needs.
PRELOAD = ["pytest", "svc_dist.cli.process", "tests.support.dying"]
#: A command imports these anew: they read the environment, and what is installed.
ANEW = ("svc_dist", "huggingface_hub")
#: Of the tests as a whole, before any of them changes its own.
ENVIRONMENT = dict(os.environ)


def fork(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Call a function of a module in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with mock.patch.dict(os.environ, ENVIRONMENT, clear=True):
        forkserver.ensure_running()
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


class Forked:
    """A command that runs, or Python's own ``-c``, with the verbs of ``subprocess.Popen`` for one with two pipes."""

    def __init__(self, arguments: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="forked"))
        words = [str(argument) for argument in arguments]
        self._process = fork(_command, words, dict(environment), str(Path.cwd()), str(self._folder))
        self.pid: int = self._process.pid or 0

    @property
    def returncode(self) -> int:
        assert self._process.exitcode is not None, "it runs still"
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("svc-dist", timeout or 0, *self.said())
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end: what it wrote."""
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """What it has written so far."""
        files = (self._folder / name for name in ("out", "err"))
        out, err = (file.read_text() if file.exists() else "" for file in files)
        return out, err

    def close(self) -> None:
        """Kill it, if it is there still, and forget what it wrote."""
        self.kill()
        self._process.join()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def forked(arguments: Sequence[str | Path], environment: Mapping[str, str]) -> Iterator[Forked]:
    """A command that runs alongside; killed at the end, if it is there still."""
    process = Forked(arguments, environment)
    try:
        yield process
    finally:
        process.close()


def _command(arguments: list[str], environment: dict[str, str], cwd: str, folder: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    for number, name, mode in ((0, os.devnull, "r"), (1, f"{folder}/out", "w"), (2, f"{folder}/err", "w")):
        with open(name, mode) as file:
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        return
    sys.argv = ["svc-dist", *arguments]
    for name in [name for name in sys.modules if name.partition(".")[0] in ANEW]:
        del sys.modules[name]
    from svc_dist.cli.entry import main

    main()
