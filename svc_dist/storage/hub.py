"""Repositories of a Hugging Face hub, ``hf://owner/name@revision``, read only, each pinned to one commit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from svc_dist.errors import StorageError, SvcDistError, TransientStorageError
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import FileIdentity, complete, write_all
from svc_dist.storage.fsspec import FsspecObjects, changed
from svc_dist.storage.retry import Retries, translated
from svc_dist.storage.secrets import learn

Result = TypeVar("Result")

_PASSING = (408, 429, 500, 502, 503, 504)
_HINTS = {
    401: "check the name; a private or gated repository needs HF_TOKEN, or `hf auth login`",
    403: "the token may not read this: ask for access on the repository's page, then check HF_TOKEN",
    404: "check owner, name and revision (hf://owner/name@revision)",
}


class HubObjects(FsspecObjects):
    """The files of a repository as they were in the commit that its revision names when first asked.

    A commit never changes, so a branch that moves during a run cannot mix two models: a worker that starts later finds
    another file than planned, and says so.
    """

    def __init__(self, location: str, access: Access = DEFAULT_ACCESS) -> None:
        super().__init__(location, access)
        self._identities: dict[str, FileIdentity] | None = None

    def path(self, name: str) -> str:
        return f"{self._pinned}/{name}" if name else self._pinned

    def names(self, prefix: str = "") -> list[str]:
        return super().names(prefix) if prefix else list(self._files)

    def identity(self, name: str) -> FileIdentity | None:
        return self._files.get(name)

    def require_planned(self, planned: FileIdentity) -> None:
        found = self.identity(planned.name)
        if found != planned:
            raise changed(f"{self.location}/{planned.name}", planned, found)

    def read(self, name: str, start: int = 0, end: int | None = None, of: FileIdentity | None = None) -> bytes:
        what = f"{self.location}/{name}"
        return complete(self._range(name, start, end), what, start, end)

    def fetch(
        self, planned: FileIdentity, start: int, end: int, descriptor: int, offset: int, retries: Retries
    ) -> None:
        data = self._range(planned.name, start, end, retries)
        write_all(descriptor, complete(data, f"{self.location}/{planned.name}", start, end), offset)

    def _range(self, name: str, start: int, end: int | None, retries: Retries | None = None) -> bytes:
        path = self.path(name)

        def attempt() -> bytes:
            # Without a cache of its own a file reads just the range that is asked for.
            data: bytes = self.filesystem.cat_file(path, start=start, end=end, cache_type="none")
            return data

        return self.retrying(attempt, f"cannot read {self.location}/{name}", retries)

    @cached_property
    def _pinned(self) -> str:
        """The path with its revision's commit in place of the revision."""
        from huggingface_hub import HfApi, get_token

        learn(filter(None, [get_token()]))

        def attempt() -> str:
            found = self.filesystem.resolve_path(self._root)
            if not hasattr(found, "repo_id"):
                raise StorageError(f"{self.location} is no repository", "write it hf://owner/name@revision")
            api = HfApi(endpoint=self.filesystem.endpoint, token=self.filesystem.token)
            commit = api.repo_info(found.repo_id, repo_type=found.repo_type, revision=found.revision).sha
            plain = found.unresolve()
            repository = plain[: len(plain) - len(found.path_in_repo)].rstrip("/").split("@")[0]
            return "/".join(part for part in (f"{repository}@{commit}", found.path_in_repo) if part)

        return self.retrying(attempt, f"cannot open {self.location}")

    @property
    def _files(self) -> dict[str, FileIdentity]:
        if self._identities is None:
            root = self._pinned

            def attempt() -> dict[str, FileIdentity]:
                entries = [entry for entry in self.filesystem.ls(root, detail=True) if entry["type"] == "file"]
                found = [_identity(entry) for entry in entries]
                return {identity.name: identity for identity in sorted(found, key=lambda identity: identity.name)}

            self._identities = self.retrying(attempt, f"cannot list {self.location}")
        return self._identities

    def retrying(self, attempt: Callable[[], Result], what: str, retries: Retries | None = None) -> Result:
        return super().retrying(translated(attempt, lambda error: _hub_error(error, what)), what, retries)


def _identity(entry: dict[str, Any]) -> FileIdentity:
    """Who a file is, by its content: the SHA-256 of a large file, else git's hash."""
    lfs = entry.get("lfs")
    content = f"sha256:{lfs['sha256']}" if lfs else f"blob:{entry['blob_id']}"
    return FileIdentity(entry["name"].rsplit("/", 1)[-1], int(entry["size"]), content)


def _hub_error(error: Exception, what: str) -> Exception:
    """What the hub's client raised, as an error of ours; what it does not know stays as it is."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, SvcDistError):
        return error
    if isinstance(error, OfflineModeIsEnabled):
        return StorageError(f"{what}: the hub's client is offline", "unset HF_HUB_OFFLINE, or name a local copy")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in _PASSING:
        return TransientStorageError(f"{what}: the hub answered {status}")
    if status is not None:
        return StorageError(f"{what}: the hub answered {status}", _HINTS.get(status))
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{what}: {_first_line(error)}", _HINTS[404] + "; " + _HINTS[401].split("; ")[1])
    if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):  # of whichever httpx it is built on
        return TransientStorageError(f"{what}: {type(error).__name__}: {_first_line(error)}")
    return error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
