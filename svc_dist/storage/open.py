"""The storage behind a location."""

from __future__ import annotations

from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import (
    Folder,
    LocalFolder,
    is_local,
    local_path,
)
from svc_dist.storage.fsspec import FsspecObjects, Objects


def open_objects(location: str, access: Access = DEFAULT_ACCESS) -> Objects:
    """The files under a URL. Raises RecipeError for credentials in it, StorageError for an unknown kind of storage."""
    if location.startswith(("s3://", "s3a://")):
        from svc_dist.storage.s3 import S3Objects

        return S3Objects(location, access)
    if location.startswith("hf://"):
        from svc_dist.storage.hub import HubObjects

        return HubObjects(location, access)
    return FsspecObjects(location, access)


def open_folder(location: str, access: Access = DEFAULT_ACCESS) -> Folder:
    """Read access to a location: a path, or a URL that fsspec knows."""
    return LocalFolder(local_path(location)) if is_local(location) else open_objects(location, access)
