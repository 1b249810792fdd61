"""What a start of a run records in the run folder for those who look on: who runs it, how far it is, how it ended."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Self

import msgspec

from svc_dist.errors import DamagedInputError, ExitCode, Interrupted, StorageError, SvcDistError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.lock import SHORT_DEADLINE
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.starts.run_id import RUN_ID
from svc_dist.storage.base import Storage
from svc_dist.storage.secrets import redact

START_FILE = "start.json"
EVERY = 15.0  # seconds between two records of a run that advances
_LARGEST = 1 << 20


@dataclass(frozen=True)
class StartRecord:
    """The last start of a run. Times are seconds since the epoch; ``eta_seconds``: as of ``updated``; ``ended``,
    ``exit_code`` and ``error``: how it ended, where it could still say so."""

    run: str = RUN_ID
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    units_done: int = 0
    eta_seconds: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    error: str | None = None


_DECODER = msgspec.json.Decoder(StartRecord)  # made by the thread that imports this, as msgspec needs it


def read_start(storage: Storage) -> StartRecord | None:
    """What the last start recorded in this run folder; None where nothing can be read."""
    with contextlib.suppress(ValueError, RecursionError, DamagedInputError):
        data = storage.get_within(START_FILE, _LARGEST)
        return None if data is None else _DECODER.decode(data)
    return None


class RecordedStart:
    """Records a start while it runs, from a thread of its own; a record that fails is left out.

    ``state``: units done, and the seconds that are left as far as they can be estimated. A run whose units are all done
    records nothing more: publishing removes the run folder.
    """

    def __init__(self, output: Output, plan: Plan, state: Callable[[], tuple[int, float | None]]) -> None:
        self._storage, self._units, self._state = output.journal.storage.within(SHORT_DEADLINE), len(plan.units), state
        self._record = StartRecord()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_recording, name="start-record", daemon=True)

    def __enter__(self) -> Self:
        if self._state()[0] < self._units:
            self._put()
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if error is None:
            with contextlib.suppress(OSError, StorageError):
                self._storage.delete(START_FILE)  # published; a record that was under way may have come after
            return
        code, text = _how(error)
        self._record = replace(self._record, ended=time.time(), exit_code=code, error=text)
        self._put()

    def _keep_recording(self) -> None:
        while not self._stop.wait(EVERY):
            done, eta = self._state()
            if done >= self._units:
                return
            if (done, eta) != (self._record.units_done, self._record.eta_seconds):
                self._record = replace(self._record, updated=time.time(), units_done=done, eta_seconds=eta)
                self._put()

    def _put(self) -> None:
        with contextlib.suppress(OSError, StorageError):
            self._storage.put(START_FILE, msgspec.json.encode(asdict(self._record)))


def _how(error: BaseException) -> tuple[int, str]:
    if isinstance(error, SvcDistError):
        return error.exit_code, error.message
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return ExitCode.TRY_AGAIN, "interrupted"
    return ExitCode.INTERNAL, redact(f"{type(error).__name__}: {error}")
