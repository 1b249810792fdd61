"""The output location: what is there, the run folder, the lock and the sink, on a disk or behind a URL."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from svc_dist.errors import OutputError
from svc_dist.run_folder.journal import RUN_FOLDER, Journal
from svc_dist.run_folder.lock import LocalLock, Lock, RemoteLock
from svc_dist.run_folder.store import LocalStore, RemoteStore, Store
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import Folder, LocalFolder, is_local, local_path, trimmed
from svc_dist.storage.fsspec import FsspecObjects
from svc_dist.storage.open import open_objects
from svc_dist.storage.s3 import S3Objects
from svc_dist.storage.secrets import refuse_credentials
from svc_dist.storage.writing.base import Sink
from svc_dist.storage.writing.local import LocalSink
from svc_dist.storage.writing.s3 import S3Sink, drop_uploads
from svc_dist.storage.writing.staged import StagedSink

_HASTE = 5.0  # seconds for which a run that ends tries to say why and to let go of its lock


class Output:
    """Where a merge goes. ``location``: an absolute path or a URL; ``access``: how the storage behind it is reached."""

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        refuse_credentials(location, "OUTPUT")
        if location.startswith("hf://"):
            raise OutputError(
                f"{location}: nothing is written to a hub", "merge into a folder or bucket, then upload it"
            )
        self.access = access
        self.is_local = is_local(location)
        self.folder: Folder
        self.store: Store
        if self.is_local:
            path = Path(local_path(location)).absolute()
            self.location = str(path)
            self.folder = LocalFolder(self.location)
            self.store = LocalStore(path)
            self.journal = Journal(LocalStore(path / RUN_FOLDER))
        else:
            self.location = trimmed(location)
            self._objects = open_objects(self.location, access)
            self.folder = self._objects
            self.store = RemoteStore(self._objects)
            timeout, deadline = min(_HASTE, access.timeout), min(_HASTE, access.deadline)
            self._hasty = open_objects(self.location, dataclasses.replace(access, timeout=timeout, deadline=deadline))
            self.journal = Journal(RemoteStore(self._objects, RUN_FOLDER), RemoteStore(self._hasty, RUN_FOLDER))

    def inside(self, path: str) -> Output:
        """A folder inside this one; itself for ""."""
        return Output(f"{self.location}/{path}", self.access) if path else self

    def there(self, names: Iterable[str]) -> list[str]:
        """Which of these files are there; a name may say a folder."""
        folders: dict[str, set[str]] = {}
        found = []
        for name in names:
            folder, _, last = name.rpartition("/")
            if folder not in folders:
                folders[folder] = set(self.inside(folder).names())
            if last in folders[folder]:
                found.append(name)
        return found

    def exists(self) -> bool:
        """Whether anything is there. Raises OutputError when it is a file."""
        if not self.is_local:
            return bool(self.names()) or self.journal.is_there()
        path = Path(self.location)
        if path.exists() and not path.is_dir():
            raise OutputError(f"{self.location} is a file", "name a folder as OUTPUT")
        return path.exists()

    def names(self) -> list[str]:
        """Names of the files directly there, sorted."""
        if self.is_local and not Path(self.location).is_dir():
            return []
        return self.folder.names()

    def lock(self) -> Lock:
        """The lock of the output, to be held by ``with``."""
        if self.is_local:
            return LocalLock(Path(self.location) / RUN_FOLDER / "lock")
        return RemoteLock(self._objects, f"{RUN_FOLDER}/lock", self._hasty)

    def drop_partial(self) -> None:
        """Drop what runs have left outside the run folder: uploads in flight. The caller holds the lock."""
        if not self.is_local and isinstance(self._objects, S3Objects):
            drop_uploads(self._objects, self.journal.store)

    def sink(self, fingerprint: str) -> Sink:
        """Where the shards of the plan with this fingerprint are written."""
        if self.is_local:
            return LocalSink(self.location)
        if isinstance(self._objects, S3Objects):
            return S3Sink(self._objects, self.journal.store, fingerprint)
        assert isinstance(self._objects, FsspecObjects)
        return StagedSink(self._objects, RUN_FOLDER, fingerprint)
