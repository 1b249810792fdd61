"""A merged model in its staging folder, sent to a branch of a hub: shards first, and with the last commit its index."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from svc_dist.checkpoint.weight_files import completes, is_last
from svc_dist.errors import (
    DamagedInputError,
    DrainedError,
    StorageError,
    SvcDistError,
    VerificationError,
    printable,
)
from svc_dist.run.hub.allowed import foreign, require_allowed
from svc_dist.run.options import Options
from svc_dist.run.signals.stopping import signals
from svc_dist.run_folder.lock import Lock
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed, whole_names
from svc_dist.run_folder.report import REPORT_FILE
from svc_dist.sizes import counted, format_size
from svc_dist.storage.base import FileIdentity, os_errors
from svc_dist.storage.fetching import SCRATCH_HINTS
from svc_dist.storage.hub.branch import Addition, HubBranch, RemoteFile, same
from svc_dist.storage.hub.refusals import MovedError
from svc_dist.storage.writing.base import PART
from svc_dist.tensor_names import natural_key

#: In the staging folder until the upload is complete: the hashes of what was sent.
UPLOAD_FILE = "merge_upload.json"
_LARGEST = 64 << 20
_BETWEEN = 60.0  # seconds between two commits: a hub limits them (128 an hour)
_POLL = 0.2
_MOVES = 5  # times that a commit is tried on top of those of other programs
_WEIGHTS = ".safetensors"
_log = logging.getLogger("svc_dist")


class Sent(msgspec.Struct, frozen=True):
    """A staged file that was sent: its identity then, and the hash of its content."""

    identity: FileIdentity
    sha256: str


_SENT = msgspec.json.Decoder(dict[str, Sent])  # made by the thread that imports this, as msgspec needs it


class Uploading:
    """The upload of one staged merge. ``public``: whether a repository that everybody may read is meant; ``stop``: set
    where the merge was asked to stop before it."""

    def __init__(
        self, branch: HubBranch, staged: Output, public: bool, options: Options, stop: threading.Event
    ) -> None:
        self.branch, self.staged, self.public, self.limits = branch, staged, public, options.limits
        self.place, self._scratch = branch.place, options.scratch
        self._stop, self._until = stop, float("inf")
        self._names: list[str] = []
        self._head = ""

    def run(self, lock: Lock, began: float) -> int:
        """Send what the branch lacks, and the index with the last commit. Returns how many files were sent.

        SIGTERM, SIGINT or the end of the time limit stops between two files. Raises DrainedError, OutputError where
        the branch holds other files of these names, VerificationError where the staged merge is not whole or the
        branch differs from it at the end, StorageError.
        """
        published = completed(self.staged)
        if published is None:
            raise VerificationError(f"{self.staged.location} is not complete", "run the same command again")
        if self.limits.runtime is not None:
            self._until = began + self.limits.runtime
        names = self._names = whole_names(self.staged, published)
        with signals(self._stop):
            remote = require_allowed(self.branch, self.public)
            if self.public and (remote is None or not remote.private):
                _log.warning(f"warning: {self.place.location} is public, and {REPORT_FILE} names inputs and hosts")
            self._head = self.branch.create(remote, self.public)
            missing = self._missing(names, self.branch.files(self._head))
            if not missing:
                return self._finished(names, 0)
            shards = sorted((name for name in missing if name.endswith(_WEIGHTS)), key=natural_key)
            self._send(shards, [name for name in missing if name not in shards], lock)
        return self._finished(names, len(missing))

    def _missing(self, names: list[str], there: dict[str, RemoteFile]) -> list[str]:
        """The files that the branch lacks. Raises OutputError where it holds others, which this merge did not put
        there."""
        sent, missing = self._sent(), []
        for name in names:
            if name not in there:
                missing.append(name)
            elif not self._same(name, there[name], sent.get(name)):
                raise foreign(self.place, name)
        ours = set(names)
        other = next((name for name in sorted(there) if name not in ours and _is_model(name)), None)
        if other is not None:
            raise foreign(self.place, other)
        return missing

    def _same(self, name: str, remote: RemoteFile, sent: Sent | None) -> bool:
        identity = self.staged.storage.stat(name)
        if sent is not None and sent.identity == identity and remote.sha256 is not None:
            return remote.sha256 == sent.sha256 and remote.size == sent.identity.size
        if identity is not None and identity.size != remote.size:
            return False
        with self._content(name) as content:
            return same(remote, content)

    def _send(self, weights: list[str], others: list[str], lock: Lock) -> None:
        """Send weights, and commit what was sent every minute; then the others, and commit these with the last weights
        in one step. So what is there before never looks whole."""
        pending: list[Addition] = []
        with contextlib.ExitStack() as copies:
            try:
                self._send_weights(weights, pending, copies, lock)
                pending += [self.branch.small(name, self._read(name)) for name in others]
                self._require_time()
            except DrainedError:
                try:
                    self._commit(_early(pending), "svc_dist: weights, stopped on request")
                except SvcDistError as error:  # what was sent is known to the hub: the stop matters more
                    _log.warning(f"warning: {error.message}")
                raise
            self._commit(pending, "svc_dist: the merge is complete")

    def _send_weights(
        self, names: list[str], pending: list[Addition], copies: contextlib.ExitStack, lock: Lock
    ) -> None:
        """Send weights. ``pending``: those that no commit has yet; ``copies``: what must stay until one has."""
        sent, last = self._sent(), time.monotonic()
        for number, name in enumerate(names, 1):
            identity = self.staged.storage.stat(name)
            with contextlib.ExitStack() as copy:
                pending.append(self._waiting(name, copy.enter_context(self._content(name)), lock))
                if pending[-1].in_commit:
                    copies.enter_context(copy.pop_all())
            if identity is not None:
                sent[name] = Sent(identity, pending[-1].sha256)
                self.staged.storage.put(UPLOAD_FILE, msgspec.json.encode(sent))
                _log.info(f"uploaded {printable(name)} ({format_size(identity.size)}), {number} of {len(names)}")
            if number < len(names) and time.monotonic() - last >= _BETWEEN:
                self._commit(_early(pending), f"svc_dist: weights, {number} of {len(names)} files")
                last = time.monotonic()
                pending[:] = [one for one in pending if is_last(one.name)]

    def _commit(self, additions: list[Addition], message: str) -> None:
        """Commit on top of what others committed meanwhile. Raises OutputError where they put files of a model there,
        MovedError where they do it again and again."""
        for left in reversed(range(_MOVES if additions else 0)):
            try:
                self._head = self.branch.commit(additions, message, self._head)
                return
            except MovedError:
                if not left:
                    raise
            remote = require_allowed(self.branch, self.public)
            if remote is None or remote.head is None:
                raise StorageError(f"{self.place.location} is gone", "run the same command again to resume")
            self._head = remote.head
            self._missing(self._names, self.branch.files(self._head))

    def _read(self, name: str) -> bytes:
        data = self.staged.storage.get(name)
        if data is None:
            raise VerificationError(f"{self.staged.storage.url(name)} is gone", "run the same command again")
        return data

    def _finished(self, names: list[str], count: int) -> int:
        """Check that the branch holds every file as staged. Raises VerificationError."""
        there, sent = self.branch.files(self._head), self._sent()
        wrong = [name for name in names if name not in there or not self._same(name, there[name], sent.get(name))]
        if wrong:
            raise VerificationError(
                f"{self.place.location}: {counted(len(wrong), 'file')} of {len(names)} are not as they were sent, such "
                f"as {printable(wrong[0])}; does a .gitignore there leave it out?",
                "correct that, then run the same command again",
            )
        self.staged.storage.delete(UPLOAD_FILE)
        _log.info(f"{self.place.location}: all {counted(len(names), 'file')} are there, commit {self._head[:12]}")
        return count

    @contextlib.contextmanager
    def _content(self, name: str) -> Iterator[Path]:
        """A staged file on this machine: itself, or a copy of it."""
        storage = self.staged.storage
        if storage.path is not None:
            yield storage.path / name
            return
        identity = storage.stat(name)
        if identity is None:
            raise VerificationError(f"{storage.url(name)} is gone", "run the same command again")
        with contextlib.ExitStack() as stack:
            with os_errors(f"cannot use scratch space in {self._scratch or tempfile.gettempdir()}", SCRATCH_HINTS):
                folder = tempfile.TemporaryDirectory(prefix="svc_dist_", dir=self._scratch, ignore_cleanup_errors=True)
                copy = Path(stack.enter_context(folder)) / "file"
                with copy.open("wb") as file:
                    for first in range(0, identity.size, PART):
                        file.write(storage.read(name, first, min(first + PART, identity.size)))
            yield copy

    def _waiting(self, name: str, content: Path, lock: Lock) -> Addition:
        """Send one file, beside this thread, so that a stop takes effect while that takes long."""
        self._require_time()
        done: list[Any] = []

        def run() -> None:
            try:
                done.append(self.branch.upload(name, content))
            except BaseException as error:
                done.append(error)

        thread = threading.Thread(target=run, name="upload", daemon=True)
        thread.start()
        end_of_grace: float | None = None
        while not done:
            thread.join(_POLL)
            lock.require_held()
            if end_of_grace is None and (self._stop.is_set() or time.monotonic() > self._until):
                end_of_grace = time.monotonic() + self.limits.grace
                _log.warning(f"asked to stop: the file that is being uploaded may finish ({self.limits.grace:.0f} s)")
            if end_of_grace is not None and time.monotonic() > end_of_grace:
                raise self._stopped()
        if isinstance(done[0], BaseException):
            raise done[0]
        addition: Addition = done[0]
        return addition

    def _require_time(self) -> None:
        if self._stop.is_set() or time.monotonic() > self._until:
            raise self._stopped()

    def _stopped(self) -> DrainedError:
        return DrainedError(
            f"the merge is complete in {self.staged.location}, but not yet uploaded to {self.place.location}",
            "run the same command again to resume",
        )

    def _sent(self) -> dict[str, Sent]:
        with contextlib.suppress(ValueError, RecursionError, DamagedInputError):
            data = self.staged.storage.get_within(UPLOAD_FILE, _LARGEST)
            return {} if data is None else _SENT.decode(data)
        return {}


def _early(additions: list[Addition]) -> list[Addition]:
    """The weights that a commit may show before the last one: without those that would make a model look whole."""
    return [one for one in additions if one.name.endswith(_WEIGHTS) and not is_last(one.name)]


def _is_model(name: str) -> bool:
    """Whether a file belongs to a model in the root of a repository or in one of its folders."""
    return name.endswith(_WEIGHTS) or completes(name)
