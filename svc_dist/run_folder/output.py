"""The output location: its files, the run folder, the lock and the sink."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svc_dist.errors import OutputError
from svc_dist.run_folder.disk_lock import DiskLock
from svc_dist.run_folder.journal import RUN_FOLDER, Journal
from svc_dist.run_folder.lock import Lock, RemoteLock
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import MultipartStorage
from svc_dist.storage.open import open_storage
from svc_dist.storage.secrets import refuse_credentials
from svc_dist.storage.writing.base import Sink
from svc_dist.storage.writing.local import LocalSink
from svc_dist.storage.writing.s3 import S3Sink, drop_uploads
from svc_dist.storage.writing.staged import StagedSink


class Output:
    """Where a merge goes. ``location``: an absolute path or a URL; ``access``: how the storage behind it is reached.

    ``reading``: only what a merge left is of interest, so that the storage need not be one that svc_dist writes to.
    """

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS, reading: bool = False) -> None:
        refuse_credentials(location, "OUTPUT")
        storage = open_storage(location, access)
        if storage.read_only is not None and not reading:
            hint = storage.read_only_hint or "merge into a folder or bucket, then upload it"
            raise OutputError(f"{location}: {storage.read_only}", hint)
        if storage.path is not None:
            storage = open_storage(str(storage.path.absolute()), access)
        self.storage = storage
        self.location = storage.location
        self.access, self.reading = access, reading
        self.journal = Journal(storage.sub(RUN_FOLDER))

    def existing(self, names: Sequence[str]) -> list[str]:
        """Those of these files that exist; a name may include a folder."""
        folders = dict.fromkeys(name.rpartition("/")[0] for name in names)
        contents = {folder: set(self.storage.names(folder)) for folder in folders}
        return [name for name in names if name.rpartition("/")[2] in contents[name.rpartition("/")[0]]]

    def exists(self) -> bool:
        """Whether the output holds anything. Raises OutputError when it is a file."""
        path = self.storage.path
        if path is None:
            return bool(self.storage.names()) or self.journal.is_there()
        if path.exists() and not path.is_dir():
            raise OutputError(f"{self.location} is a file", "name a folder as OUTPUT")
        return path.exists()

    def lock(self) -> Lock:
        """The lock of the output, to be held by ``with``."""
        path = self.storage.path
        return RemoteLock(self.storage, f"{RUN_FOLDER}/lock") if path is None else DiskLock(path / RUN_FOLDER / "lock")

    def folders(self) -> list[Path]:
        """On a disk the run folder and its parents: a start that fails removes those that it made."""
        path = self.storage.path
        return [] if path is None else [path / RUN_FOLDER, path, *path.parents]

    def drop_partial(self) -> None:
        """Abort the uploads that earlier runs left in progress. The caller holds the lock."""
        if isinstance(self.storage, MultipartStorage):
            drop_uploads(self.storage, self.journal.storage)

    def sink(self, fingerprint: str) -> Sink:
        """Where the shards of the plan with this fingerprint are written."""
        if self.storage.path is not None:
            return LocalSink(self.storage.path, self.storage.path / RUN_FOLDER / "partial")
        if isinstance(self.storage, MultipartStorage):
            return S3Sink(self.storage, self.journal.storage, fingerprint)
        return StagedSink(self.storage, self.journal.storage, fingerprint)
