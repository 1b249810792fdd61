"""Any storage that fsspec has a file system for: whole files and ranges of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from svc_dist.errors import StorageError
from svc_dist.storage.access import DEFAULT_ACCESS, GOOGLE, HUB, Access, ClientOptions, check_options
from svc_dist.storage.base import FileIdentity, Storage, complete, trimmed
from svc_dist.storage.retry import Retries
from svc_dist.storage.secrets import refuse_credentials


class FsspecStorage(Storage):
    """A prefix of an fsspec file system. Raises StorageError for a file system that is unknown or not installed."""

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        super().__init__(trimmed(location), access)
        self.filesystem, root = _filesystem(self.location, access)
        self.root = root.rstrip("/")

    def full(self, name: str) -> str:
        """A file's path in the file system."""
        return f"{self.root}/{name}" if name else self.root

    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        root = self.full(folder.strip("/"))

        def attempt() -> list[str]:
            try:
                if recursive:
                    return sorted(path[len(root) :].lstrip("/") for path in self.filesystem.find(root))
                entries = self.filesystem.ls(root, detail=True)
            except FileNotFoundError:
                return []
            return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")

        return self.retrying(attempt, f"cannot list {self.url(folder)}")

    def stat(self, name: str) -> FileIdentity | None:
        def attempt() -> FileIdentity | None:
            try:
                info = self.filesystem.info(self.full(name))
            except FileNotFoundError:
                return None
            if info.get("type") == "directory":
                return None
            if info.get("size") is None:
                raise StorageError(f"{self.url(name)}: the server does not tell its size")
            keys = ("ETag", "etag", "md5", "mtime", "LastModified", "last_modified", "created", "updated")
            version = next((f"{key.lower()}:{info[key]}" for key in keys if info.get(key)), "unversioned")
            return FileIdentity(name, int(info["size"]), version)

        return self.retrying(attempt, f"cannot look at {self.url(name)}")

    def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        of: FileIdentity | None = None,
        retries: Retries | None = None,
    ) -> bytes:
        def attempt() -> bytes:
            data: bytes = self.filesystem.cat_file(self.full(name), start=start, end=end)
            return complete(data, self.url(name), start, end)

        return self.retrying(attempt, f"cannot read {self.url(name)}", retries)

    def get(self, name: str) -> bytes | None:
        def attempt() -> bytes | None:
            try:
                data: bytes = self.filesystem.cat_file(self.full(name))
            except FileNotFoundError:
                return None
            return data

        return self.retrying(attempt, f"cannot read {self.url(name)}")

    def put(self, name: str, data: bytes) -> None:
        def attempt() -> None:
            self.filesystem.makedirs(self.full(name).rsplit("/", 1)[0], exist_ok=True)
            self.filesystem.pipe_file(self.full(name), data)

        self.retrying(attempt, f"cannot write {self.url(name)}")

    def put_stream(self, name: str, chunks: Callable[[], Iterable[bytes]]) -> None:
        def attempt() -> None:
            self.filesystem.makedirs(self.full(name).rsplit("/", 1)[0], exist_ok=True)
            with self.filesystem.open(self.full(name), "wb", block_size=16 << 20) as file:
                for chunk in chunks():
                    file.write(chunk)

        self.retrying(attempt, f"cannot write {self.url(name)}")

    def delete(self, name: str) -> None:
        def attempt() -> None:
            try:
                self.filesystem.rm_file(self.full(name))
            except FileNotFoundError:
                return

        self.retrying(attempt, f"cannot remove {self.url(name)}")


def _filesystem(location: str, access: Access) -> tuple[Any, str]:
    """The file system of a URL and the path in it: fsspec keeps one client per process and set of options."""
    import fsspec

    refuse_credentials(location)
    protocol = location.split("://", 1)[0]
    options = access.options_of(location)
    check_options(protocol, options)
    try:
        filesystem, path = fsspec.core.url_to_fs(location, **_arguments(protocol, options))
        return filesystem, path
    except (ImportError, ValueError, TypeError) as error:
        raise StorageError(f"cannot open {location}: {error}") from None


def _arguments(protocol: str, options: ClientOptions) -> dict[str, Any]:
    """Arguments for the file system's constructor."""
    arguments: dict[str, Any] = dict(options.client)
    if options.endpoint_url is not None:
        arguments["endpoint" if protocol == HUB else "endpoint_url"] = options.endpoint_url
    if options.anonymous:
        arguments["token"] = "anon" if protocol in GOOGLE else False
    return arguments
