"""The storage behind a location: the only place that tells kinds of storages apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from svc_dist.errors import RecipeError, StorageError, has_control, printable
from svc_dist.storage.access import AZURE, DEFAULT_ACCESS, DOCUMENT, DRIVERS, MEMORY, Access
from svc_dist.storage.base import Storage
from svc_dist.storage.local import LocalStorage
from svc_dist.storage.secrets import redact

_LONGEST = 255  # bytes of a file's name on every common file system
#: The beginning of a URL or of an absolute path.
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9.-]*://|/|~")
#: What is left of a URL where a program took it for a path and joined its slashes.
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9.-]*):/(?!/)")
_LOOKING = 20.0  # seconds in which a location with a plus must answer

#: The class of each URL scheme, imported when it is first needed. Installed packages add schemes by entry points.
SCHEMES = {
    "file": "svc_dist.storage.local:LocalStorage",
    "local": "svc_dist.storage.local:LocalStorage",
    "s3": "svc_dist.storage.s3.storage:S3Storage",
    "s3a": "svc_dist.storage.s3.storage:S3Storage",
    "hf": "svc_dist.storage.hub.repository:HubStorage",
    **dict.fromkeys(DRIVERS, "svc_dist.storage.fsspec:FsspecStorage"),
    **dict.fromkeys(AZURE, "svc_dist.storage.azure:AzureStorage"),
}
GROUP = "svc_dist.storages"


def open_storage(location: str, access: Access = DEFAULT_ACCESS) -> Storage:
    """The storage of a path or URL.

    Raises RecipeError for a credential, a wrong option or a control character in it, and for an unknown scheme.
    """
    scheme, mark, _ = location.partition("://")
    require_known(location)
    if location.startswith((DOCUMENT, MEMORY)):
        return cast(Storage, access.model(location))
    if not mark:
        return LocalStorage(location, access)
    kind = EntryPoint(scheme, SCHEMES[scheme], GROUP) if scheme in SCHEMES else _added(scheme)[0]
    return cast(Storage, kind.load()(location, access))


def require_known(location: str, where: str = "") -> None:
    """Raise RecipeError for a URL of an unknown scheme, or a path that nobody writes. ``where`` says where it stands.

    fsspec knows schemes that run commands or read what a file tells them to: only storages of data are taken.
    """
    where = f"{where}: " if where else ""
    if has_control(location):
        raise RecipeError(f"{where}{printable(location)} is no path or URL: it holds a control character")
    scheme, mark, _ = location.partition("://")
    if not mark and any(len(part.encode()) > _LONGEST for part in location.split("/")):
        raise RecipeError(f"{where}{printable(location)} is no path: a name in it is too long")
    if not mark and (slip := _ONE_SLASH.match(location)) and (slip[1] in SCHEMES or _added(slip[1])):
        raise RecipeError(
            f"{where}{slip[0]}... is no URL: it has one slash after the colon",
            f"write {slip[1]}://..., or ./{slip[0]}... for a folder of this name",
        )
    if mark and scheme not in SCHEMES and not _added(scheme) and not location.startswith((DOCUMENT, MEMORY)):
        known = sorted({*SCHEMES, *(point.name for point in entry_points(group=GROUP))})
        raise RecipeError(
            f"{where}{redact(location)}: svc_dist knows no storage {scheme}://",
            f"known: paths, {', '.join(f'{name}://' for name in known)}",
        )


def _added(scheme: str) -> list[EntryPoint]:
    """The storages of this scheme that installed packages add."""
    return list(entry_points(group=GROUP, name=scheme))


def overlap(one: Storage, other: Storage) -> bool:
    """Whether one of two storages lies inside the other, or is the same."""
    if one.path is not None and other.path is not None:
        first, second = one.path.resolve(), other.path.resolve()
        return first == second or first in second.parents or second in first.parents
    first_url, second_url = f"{one.location}/", f"{other.location}/"
    return first_url.startswith(second_url) or second_url.startswith(first_url)


def split_location(
    location: str, access: Access = DEFAULT_ACCESS, absolute: Callable[[str], str] = str
) -> tuple[str, str | None]:
    """``model+adapter`` as its two locations; ``(location, None)`` without a plus, or where the whole exists.

    ``absolute``: makes a location of each of them. A storage is asked only where the plus may be part of a name: of two
    URLs it is not. Of several pluses, the one before a URL or an absolute path counts, else the one between two
    locations that exist. Raises RecipeError where none does.
    """
    if "+" not in location or _exists(absolute(location), access):
        return absolute(location), None
    every = [position for position, letter in enumerate(location) if letter == "+" and 0 < position < len(location) - 1]
    pairs = [(location[:position], location[position + 1 :]) for position in every]
    found = [pair for pair in pairs if _ABSOLUTE.match(pair[1])] or pairs
    if len(found) > 1:
        found = [pair for pair in found if all(_exists(absolute(each), access) for each in pair)]
    if len(found) != 1:
        raise RecipeError(
            f"{location}: model+adapter has one +, with a location before it and one after it",
            "a folder whose name has a + is reached through a symbolic link without one",
        )
    model, adapter = found[0]
    return absolute(model), absolute(adapter)


def _exists(location: str, access: Access) -> bool:
    """Whether a path or prefix with a plus in it exists as a whole."""
    if location.startswith((DOCUMENT, MEMORY)) or "://" in location.partition("+")[2]:
        return False
    storage = open_storage(location, access).within(_LOOKING)
    if storage.path is not None:
        return storage.path.is_dir()
    try:
        return bool(storage.names())
    except StorageError:  # whoever reads it says why it cannot be read
        return True
