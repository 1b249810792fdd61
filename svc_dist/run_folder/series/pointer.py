"""The pointer to the newest output of a series: a symbolic link on a disk, a small JSON object elsewhere."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path

import msgspec

from svc_dist.errors import DamagedInputError, OutputError, printable
from svc_dist.run_folder.report import utc
from svc_dist.run_folder.series.dates import LATEST, Series
from svc_dist.run_folder.starts.run_id import RUN_ID
from svc_dist.storage.access import Access
from svc_dist.storage.base import Storage, os_errors
from svc_dist.storage.local import sync_folder
from svc_dist.storage.open import open_storage

_LARGEST = 1 << 20


class Pointed(msgspec.Struct):
    """The content of a pointer on an object storage: where the newest output is."""

    output: str


_DECODER = msgspec.json.Decoder(Pointed)  # made by the thread that imports this, as msgspec needs it


class Pointer:
    """The pointer of one series, at OUTPUT with ``latest`` in place of the date (with ``.json`` where it is an object).

    Raises OutputError when something else is there: it would be overwritten.
    """

    def __init__(self, series: Series) -> None:
        folder, _, name = series.latest.rpartition("/")
        self._series = series
        self._storage = open_storage(folder or ("/" if "/" in series.latest else "."), series.access)
        self._name = name
        self.target()

    def target(self) -> str | None:
        """The location that it names; None where there is no pointer yet."""
        path = self._storage.path
        if path is not None:
            link = path / self._name
            if link.is_symlink():
                return os.path.normpath(path.absolute() / link.readlink())
            if link.exists():
                raise _occupied(str(link))
            return None
        data = self._storage.get_within(_file(self._name), _LARGEST)
        if data is None:
            return None
        pointed = _parsed(data)
        if pointed is None:
            raise _occupied(self._storage.url(_file(self._name)))
        return pointed.output

    def names(self, date: str) -> bool:
        """Whether it names the output of this date."""
        target = self.target()
        location = self._series.output(date).location
        return target == (location if "://" in location else os.path.normpath(location))

    def switch(self, date: str) -> None:
        """Have it name the output of this date. A reader sees the old target or the new one."""
        location = self._series.output(date).location
        path = self._storage.path
        if path is not None:
            _link(path / self._name, location)
            return
        content = {"output": location, "switched": utc(time.time()), "run": RUN_ID}
        self._storage.put(_file(self._name), json.dumps(content, indent=1).encode())


def resolved(location: str, access: Access) -> str:
    """The output that a location names through the pointer of a series, on an object storage; else the location.

    Asks the storage only for locations with ``latest`` in them: a link on a disk resolves by itself.
    """
    if LATEST not in location or "://" not in location:
        return location
    parts = location.rstrip("/").split("/")
    for number in range(len(parts), 3, -1):  # behind the scheme and the bucket
        if LATEST not in parts[number - 1]:
            continue
        folder: Storage = open_storage("/".join(parts[: number - 1]), access)
        data = None if folder.path is not None else folder.get_within(_file(parts[number - 1]), _LARGEST)
        pointed = None if data is None else _parsed(data)
        if pointed is not None:
            return "/".join([pointed.output, *parts[number:]])
    return location


def _link(link: Path, location: str) -> None:
    """Replace a symbolic link in one step. Raises StorageError."""
    staged = link.with_name(f".{link.name[:50]}.{uuid.uuid4().hex}")
    with os_errors(f"cannot switch {printable(str(link))}"):
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.symlink_to(os.path.relpath(location, link.parent.absolute()))
            staged.replace(link)
        finally:
            staged.unlink(missing_ok=True)
        sync_folder(link.parent)


def _parsed(data: bytes) -> Pointed | None:
    try:
        return _DECODER.decode(data)
    except (ValueError, RecursionError, DamagedInputError):
        return None


def _file(name: str) -> str:
    return f"{name}.json"


def _occupied(where: str) -> OutputError:
    return OutputError(
        f"--latest would replace {where}, which is no pointer of svc-dist",
        "move it away, or change the name of OUTPUT: the pointer's name is OUTPUT with 'latest' in place of {date}",
    )
