"""The protocol of storages: named files under one folder or prefix. A storage is one class and a line in open.py.

A new one implements ``names``, ``stat``, ``read``, ``get``, ``put`` and ``delete``; the other operations are written in
terms of these. One with conditional writes, a clock of its own or streamed writes overrides them and the properties.
"""

from __future__ import annotations

import copy
import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from svc_dist.errors import (
    ChangedInputError,
    DamagedInputError,
    StorageError,
    SvcDistError,
    TransientStorageError,
    has_control,
    printable,
)
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.landing import Target
from svc_dist.storage.retry import Retries, retrying
from svc_dist.storage.secrets import redact

Result = TypeVar("Result")

IN_PARALLEL = 16  # small requests
_TRANSIENT = {
    errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ESTALE,
}  # fmt: skip
_FILES = "raise the limit of open files (ulimit -n 65536), or lower --slots; then run the same command again to resume"
_HINTS = {
    errno.ENOSPC: "free space there, then run the same command again to resume",
    errno.EDQUOT: "raise the quota, then run the same command again to resume",
    errno.EACCES: "check the permissions of the user that runs this",
    errno.EROFS: "the file system is mounted read-only",
    errno.ENOENT: "check the path",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}


@dataclass(frozen=True)
class FileIdentity:
    """The identity of a file, which a change since planning alters: its size and ETag, or size and mtime."""

    name: str
    size: int
    version: str


class Storage(ABC):
    """The files under one folder or prefix, by names that may contain ``/``.

    ``location``: the path or URL, without a slash at its end. ``root``: the same as the storage's own client writes it.
    Operations raise StorageError; a remote storage retries transient failures until its deadline.
    """

    #: The folder on a mounted file system, where files are mapped and locked, not copied; None elsewhere.
    path: Path | None = None
    #: Why the storage cannot be written to; None where it can.
    read_only: str | None = None
    #: What to do instead of writing there.
    read_only_hint: str | None = None
    #: Whether the storage itself refuses ``put_new`` and ``put_over`` whose condition does not hold.
    conditional_writes = False
    #: Whether ``fetch`` and ``read_pinned`` themselves notice a file that has changed.
    pinned_reads = False

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        self.location = trimmed(location)
        self.access, self.root = access, ""

    @abstractmethod
    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        """Names of the files directly in ``folder``, or at any depth, relative to it, sorted; none if it is missing."""

    def folders(self) -> list[str]:
        """Names of the sub-folders directly in this one, sorted; none where the storage cannot list them."""
        return []

    @abstractmethod
    def stat(self, name: str) -> FileIdentity | None:
        """The identity of a file; None when it does not exist."""

    @abstractmethod
    def read(self, name: str, start: int = 0, end: int | None = None, retries: Retries | None = None) -> bytes:
        """Bytes ``[start, end)`` of a file. Raises DamagedInputError when the file is shorter."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """A whole file; None when it does not exist."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write a whole file: a reader sees the old one or the new one."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file; no error when it does not exist."""

    def reach(self) -> None:  # noqa: B027  (most storages have nothing to do)
        """Raise StorageError soon where a storage that is asked for the first time does not answer."""

    def read_pinned(self, file: FileIdentity, start: int, end: int) -> bytes:
        """Bytes ``[start, end)`` of a file. With ``pinned_reads``, raises ChangedInputError when it has changed."""
        return self.read(file.name, start, end)

    def require_unchanged(self, file: FileIdentity) -> None:
        """Raise ChangedInputError when a file no longer has this identity, unless every read checks that."""
        if not self.pinned_reads and (current := self.stat(file.name)) != file:
            raise changed(self.url(file.name), file, current)

    def fetch(self, file: FileIdentity, start: int, end: int, target: Target, retries: Retries) -> None:
        """Copy bytes ``[start, end)`` of a planned file to their place."""
        target.write(self.read(file.name, start, end, retries=retries))

    def get_within(self, name: str, largest: int) -> bytes | None:
        """As ``get``. Raises DamagedInputError for a file of more than ``largest`` bytes."""
        data = self.get(name)
        if data is not None and len(data) > largest:
            raise too_large(self.url(name), len(data))
        return data

    def get_version(self, name: str) -> tuple[bytes, str | None] | None:
        """A whole file, and what identifies this version of it for ``put_over``; None when it does not exist."""
        data = self.get(name)
        return None if data is None else (data, None)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a file that does not exist yet; False when there is one. Exact with ``conditional_writes`` only."""
        if self.stat(name) is not None:
            return False
        self.put(name, data)
        return True

    def put_over(self, name: str, data: bytes, version: str | None) -> bool:
        """Replace this version of a file; False when there is another. Exact with ``conditional_writes`` only."""
        self.put(name, data)
        return True

    def put_stream(self, name: str, chunks: Callable[[], Iterable[bytes]]) -> None:
        """Write a file of these chunks; a retry calls ``chunks`` again. This default joins them in memory."""
        self.put(name, b"".join(chunks()))

    def existing(self, folder: str, names: Collection[str]) -> set[str]:
        """Those of these names that are files in ``folder``."""
        return set(self.names(folder)).intersection(names)

    def join(self, name: str, pieces: Sequence[str], folder: str) -> None:
        """Write a file of other files, in order: here by a copy. ``folder``: for what a storage makes on the way."""
        self.put_stream(name, lambda: (self.read(piece) for piece in pieces))

    def age(self, name: str) -> float | None:
        """Seconds since a file was written, by the storage's own clock; None where that is unknown."""
        return None

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove every file but ``keep``."""
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            list(pool.map(self.delete, [name for name in self.names(recursive=True) if name not in keep]))

    def sub(self, folder: str) -> Storage:
        """The same storage at a folder inside this one; itself for ""."""
        if not folder:
            return self
        view = copy.copy(self)
        view.location, view.root = f"{self.location}/{folder}", f"{self.root}/{folder}" if self.root else folder
        return view

    def within(self, seconds: float) -> Storage:
        """The same storage, whose requests and retries end after ``seconds`` at most."""
        view = copy.copy(self)
        timeout, deadline = min(seconds, self.access.timeout), min(seconds, self.access.deadline)
        view.access = replace(self.access, timeout=timeout, deadline=deadline)
        return view

    def url(self, name: str) -> str:
        """The location of a file, for messages."""
        return printable(f"{self.location}/{name}".rstrip("/"))

    def translate(self, error: Exception, what: str) -> Exception:
        """Our error for an error of the storage's client while doing ``what``."""
        return storage_error(error, what)

    def retrying(
        self,
        attempt: Callable[[], Result],
        what: str,
        retries: Retries | None = None,
        deadline: float | Callable[[], float] | None = None,
        admit: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Result:
        """Run an operation with its errors translated, and retry transient failures; ``admit`` as in ``retrying``."""

        def translated() -> Result:
            try:
                return attempt()
            except Exception as error:
                failed = self.translate(error, what)
            raise failed  # outside the handler: its context would be the client's error, which may quote credentials

        return retrying(translated, self.access.deadline if deadline is None else deadline, retries, admit)


class MultipartStorage(Storage):
    """A storage with multipart uploads: files whose parts many workers send, in any order."""

    copies_parts = False  #: Whether the client makes a copy of each part that it sends.

    @abstractmethod
    def create_upload(self, name: str, metadata: dict[str, str]) -> str:
        """Create a multipart upload of a file. Returns its id."""

    @abstractmethod
    def upload_part(self, name: str, upload: str, number: int, data: bytes | memoryview, retries: Retries) -> str:
        """Send a part; when it is sent again, the last one counts. Returns its ETag."""

    @abstractmethod
    def parts(self, name: str, upload: str) -> dict[int, list[str]] | None:
        """The ETags of the uploaded parts, by number (several if sent again); None when the upload does not exist."""

    @abstractmethod
    def complete_upload(self, name: str, upload: str, etags: Sequence[str]) -> None:
        """Make a file of parts 1, 2, ... with these ETags. Does nothing when one is missing or the upload is gone."""

    @abstractmethod
    def abort_upload(self, name: str, upload: str) -> None:
        """Drop an upload with its parts; no error when it does not exist."""

    @abstractmethod
    def uploads(self, names: Iterable[str]) -> dict[str, list[str]]:
        """The ids of the uploads in progress for each of these files, whoever created them."""

    @abstractmethod
    def metadata(self, name: str) -> tuple[int, dict[str, str]] | None:
        """Size and metadata of a finished file; None when it does not exist."""


def storage_error(error: Exception, what: str) -> SvcDistError:
    """Our error for an OSError or a client's error while doing ``what``: transient or permanent."""
    if isinstance(error, SvcDistError):
        return error
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".rstrip(": ")
    reason = redact(reason)  # servers redirect to signed URLs, and clients quote them
    if number in _TRANSIENT or isinstance(error, TimeoutError | ConnectionError):
        return TransientStorageError(f"{what}: {reason}")
    return StorageError(f"{what}: {reason}", _HINTS.get(number) if number is not None else None)


@contextmanager
def os_errors(what: str, hints: Mapping[int, str] = {}) -> Iterator[None]:
    """Raise an OSError inside the ``with`` as our error; ``hints``: what to do, by the error's number."""
    try:
        yield
    except OSError as error:
        raised = storage_error(error, what)
        raised.hint = hints.get(error.errno or 0, raised.hint)
        raise raised from None


def changed(where: str, planned: FileIdentity, current: FileIdentity | None) -> ChangedInputError:
    """The error for an input that is no longer the planned one."""
    now = "is gone" if current is None else f"now {current.size:,} bytes ({current.version})"
    text = f"{where} changed since the plan was made: planned {planned.size:,} bytes ({planned.version}), {now}"
    return ChangedInputError(text, "put the planned file back, or start over with --restart")


def too_large(where: str, size: int) -> DamagedInputError:
    """The error for a file of another size than svc_dist could have written."""
    return DamagedInputError(f"{where} has {size:,} bytes: svc_dist did not write that", "remove it")


def is_inside(name: str) -> bool:
    """Whether a name, maybe with folders, stays inside the folder that it is relative to."""
    return not {"", ".", ".."} & set(name.split("/")) and "\\" not in name and not has_control(name)


def trimmed(location: str) -> str:
    """A URL without slashes at its end; a bare scheme and a path stay as they are."""
    scheme, mark, path = location.partition("://")
    return scheme + mark + path.rstrip("/")


def complete(data: bytes, what: str, start: int, end: int | None) -> bytes:
    """``data`` when it has the length of the request. Raises DamagedInputError."""
    if end is not None and len(data) != end - start:
        raise DamagedInputError(
            f"{what}: asked for bytes {start:,} to {end:,}, got {len(data):,}; the file is truncated"
        )
    return data
