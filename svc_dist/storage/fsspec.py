"""Any storage that fsspec has a file system for: whole files and ranges of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from svc_dist.errors import MissingExtraError, StorageError
from svc_dist.storage.access import AZURE, DEFAULT_ACCESS, DRIVERS, GOOGLE, HUB, Access, check_options
from svc_dist.storage.base import IN_PARALLEL, FileIdentity, Result, Storage, complete
from svc_dist.storage.retry import Retries
from svc_dist.storage.secrets import refuse_credentials

_COMPOSED = 32  # objects of one request to Google's storage


class FsspecStorage(Storage):
    """A prefix of an fsspec file system. Raises MissingExtraError where its driver is not installed."""

    #: Arguments of ranged reads, for the file system.
    _RANGED: Mapping[str, Any] = {}

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        import fsspec

        super().__init__(location, access)
        refuse_credentials(self.location)
        protocol, options = self.location.split("://", 1)[0], access.options_of(self.location)
        check_options(protocol, options)
        arguments = dict(options.client)
        if options.endpoint_url is not None:
            arguments["endpoint" if protocol == HUB else "endpoint_url"] = options.endpoint_url
        if options.anonymous:
            arguments["token"] = "anon" if protocol in GOOGLE else False
        if protocol in (*GOOGLE, *AZURE):  # other processes write there too: a kept listing would be wrong
            arguments["use_listings_cache"] = False
        try:
            self.filesystem, root = fsspec.core.url_to_fs(self.location, **arguments)  # one client a set of options
        except ImportError:
            driver = DRIVERS.get(protocol, protocol)
            raise MissingExtraError(f"{self.location}: {protocol}:// needs {driver}", f"pip install {driver}") from None
        except Exception as error:  # whatever a driver raises on an option or a URL
            failed = self.translate(error, f"cannot open {self.location}")
            raise failed from None
        self.root = root.rstrip("/")
        self._composes = protocol in GOOGLE and hasattr(self.filesystem, "merge")

    def full(self, name: str) -> str:
        """A file's path in the file system."""
        return f"{self.root}/{name}" if name else self.root

    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        root = self.full(folder.strip("/"))

        def attempt() -> list[str]:
            if recursive:
                return sorted(path[len(root) :].lstrip("/") for path in self.filesystem.find(root))
            files = [entry["name"] for entry in self.filesystem.ls(root, detail=True) if entry["type"] == "file"]
            return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in files)

        return self._if_exists(attempt, f"cannot list {self.url(folder)}") or []

    def folders(self) -> list[str]:
        def attempt() -> list[str]:
            entries = self.filesystem.ls(self.full(""), detail=True)
            names = (entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")
            return sorted(names)

        return self._if_exists(attempt, f"cannot list {self.url('')}") or []

    def stat(self, name: str) -> FileIdentity | None:
        def attempt() -> FileIdentity | None:
            info = self.filesystem.info(self.full(name))
            if info.get("type") == "directory":
                return None
            if info.get("size") is None:
                raise StorageError(f"{self.url(name)}: the server does not report its size")
            keys = ("ETag", "etag", "md5", "mtime", "LastModified", "last_modified", "created", "updated")
            version = next((f"{key.lower()}:{info[key]}" for key in keys if info.get(key)), "unversioned")
            return FileIdentity(name, int(info["size"]), version)

        return self._if_exists(attempt, f"cannot look at {self.url(name)}")

    def read(self, name: str, start: int = 0, end: int | None = None, retries: Retries | None = None) -> bytes:
        def attempt() -> bytes:
            data: bytes = self.filesystem.cat_file(self.full(name), start=start, end=end, **self._RANGED)
            return complete(data, self.url(name), start, end)

        return self.retrying(attempt, f"cannot read {self.url(name)}", retries)

    def get(self, name: str) -> bytes | None:
        return self._if_exists(lambda: self.filesystem.cat_file(self.full(name)), f"cannot read {self.url(name)}")

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

    def join(self, name: str, pieces: Sequence[str], folder: str) -> None:
        if not self._composes:
            return super().join(name, pieces, folder)
        level, sources = 0, [self.full(piece) for piece in pieces]
        while sources:
            groups = [sources[first : first + _COMPOSED] for first in range(0, len(sources), _COMPOSED)]
            targets = [self.full(f"{folder}/{level}-{number}") for number in range(len(groups))]
            if len(groups) == 1:
                targets = [self.full(name)]
            with ThreadPoolExecutor(IN_PARALLEL) as pool:
                list(pool.map(self._compose, targets, groups))
            level, sources = level + 1, targets if len(targets) > 1 else []
        return None

    def _compose(self, target: str, sources: Sequence[str]) -> None:
        """Have the storage write an object of others: no byte of them comes here."""
        self.retrying(lambda: self.filesystem.merge(target, list(sources)), f"cannot write {target} of its pieces")

    def delete(self, name: str) -> None:
        self._if_exists(lambda: self.filesystem.rm_file(self.full(name)), f"cannot remove {self.url(name)}")

    def _if_exists(self, attempt: Callable[[], Result], what: str) -> Result | None:
        """The result of an operation, with retries; None where its file or folder does not exist."""

        def absent() -> Result | None:
            with contextlib.suppress(FileNotFoundError):
                return attempt()
            return None

        return self.retrying(absent, what)
