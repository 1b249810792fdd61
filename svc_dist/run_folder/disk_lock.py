"""The lock of an output on a disk: the kernel's where the file system has it, else the heartbeat alone."""

from __future__ import annotations

import logging

from svc_dist.run_folder.lock import LocalLock, RemoteLock, make_way
from svc_dist.storage.base import os_errors
from svc_dist.storage.local import LocalStorage
from svc_dist.storage.writing.probe import has_kernel_locks, require_writes_anywhere

_log = logging.getLogger("svc_dist")


class DiskLock(LocalLock):
    """The file ``lock`` in a run folder. Entering it first tries what a merge does with files there."""

    _by_heartbeat: RemoteLock | None = None

    def require_held(self) -> None:
        if self._by_heartbeat is None:
            super().require_held()
        else:
            self._by_heartbeat.require_held()

    def _acquire(self) -> None:
        folder = self.path.parent
        with os_errors(f"cannot make the folder {folder}"):
            make_way(self.path)
        require_writes_anywhere(folder)
        if has_kernel_locks(folder):
            super()._acquire()
            return
        _log.warning(
            f"warning: the file system of {folder.parent} has no file locks (flock): the lock of this output rests on "
            "its heartbeat, as on object storage"
        )
        by_heartbeat = RemoteLock(LocalStorage(str(folder)), self.path.name)
        by_heartbeat.__enter__()
        self._by_heartbeat = by_heartbeat

    def _beat(self) -> None:
        if self._by_heartbeat is None:
            super()._beat()

    def _release(self) -> None:
        if self._by_heartbeat is None:
            super()._release()
            return
        self._heartbeat.join()
        self._by_heartbeat.__exit__()
