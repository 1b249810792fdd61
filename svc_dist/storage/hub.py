"""Repositories of a Hugging Face hub, ``hf://owner/name@revision``, read only, each pinned to one commit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from svc_dist.errors import StorageError, SvcDistError, TransientStorageError
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.fsspec import FsspecStorage
from svc_dist.storage.secrets import learn

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_HINTS = {
    401: "check the name; a private or gated repository needs HF_TOKEN, or `hf auth login`",
    403: "the token may not read this: ask for access on the repository's page, then check HF_TOKEN",
    404: "check owner, name and revision (hf://owner/name@revision)",
}


class HubStorage(FsspecStorage):
    """The files of a repository as they were in the commit that its revision names when first asked.

    A commit never changes, so a branch that moves during a run cannot mix two models: a worker that starts later sees
    another file than planned and raises ChangedInputError.
    """

    read_only = "svc_dist does not write to a hub"
    _RANGED: Mapping[str, Any] = {"cache_type": "none"}  # with a cache, a file reads more than the range

    def full(self, name: str) -> str:
        return f"{self._pinned}/{name}" if name else self._pinned

    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        return super().names(folder, recursive) if recursive else list(self._files(folder.strip("/")))

    def stat(self, name: str) -> FileIdentity | None:
        folder, _, last = name.rpartition("/")
        identity = self._files(folder).get(last)
        return None if identity is None else dataclasses.replace(identity, name=name)

    def sub(self, folder: str) -> Storage:
        return HubStorage(f"{self.location}/{folder}", self.access) if folder else self

    @cached_property
    def _pinned(self) -> str:
        """The path with its revision's commit in place of the revision."""
        from huggingface_hub import HfApi, get_token

        learn(filter(None, [get_token()]))

        def attempt() -> str:
            resolved = self.filesystem.resolve_path(self.root)
            if not hasattr(resolved, "repo_id"):
                raise StorageError(f"{self.location} is no repository", "write it like hf://owner/name@revision")
            api = HfApi(endpoint=self.filesystem.endpoint, token=self.filesystem.token)
            commit = api.repo_info(resolved.repo_id, repo_type=resolved.repo_type, revision=resolved.revision).sha
            plain = resolved.unresolve()
            repository = plain[: len(plain) - len(resolved.path_in_repo)].rstrip("/").split("@")[0]
            return "/".join(part for part in (f"{repository}@{commit}", resolved.path_in_repo) if part)

        return self.retrying(attempt, f"cannot open {self.location}")

    @cached_property
    def _listings(self) -> dict[str, dict[str, FileIdentity]]:
        return {}

    def _files(self, folder: str) -> dict[str, FileIdentity]:
        """The files directly in a folder of the commit, listed once; none where a sub-folder is missing."""

        def attempt() -> dict[str, FileIdentity]:
            try:
                entries = self.filesystem.ls(self.full(folder), detail=True)
            except FileNotFoundError:
                if not folder:
                    raise
                return {}
            files = sorted(
                (_identity(entry) for entry in entries if entry["type"] == "file"), key=lambda file: file.name
            )
            return {file.name: file for file in files}

        if folder not in self._listings:
            self._listings[folder] = self.retrying(attempt, f"cannot list {self.location}")
        return self._listings[folder]

    def translate(self, error: Exception, what: str) -> Exception:
        from huggingface_hub.errors import OfflineModeIsEnabled

        if isinstance(error, SvcDistError):
            return error
        if isinstance(error, OfflineModeIsEnabled):
            return StorageError(f"{what}: the hub's client is offline", "unset HF_HUB_OFFLINE, or name a local copy")
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in _TRANSIENT:
            return TransientStorageError(f"{what}: the hub answered {status}")
        if status is not None:
            return StorageError(f"{what}: the hub answered {status}", _HINTS.get(status))
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(error, FileNotFoundError):
            return StorageError(f"{what}: {reason}", f"{_HINTS[404]}; {_HINTS[401].split('; ')[1]}")
        if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):  # of whichever httpx it is built on
            return TransientStorageError(f"{what}: {type(error).__name__}: {reason}")
        return super().translate(error, what)


def _identity(entry: dict[str, Any]) -> FileIdentity:
    """The identity of a file by its content: the SHA-256 of a large file, else git's hash."""
    lfs = entry.get("lfs")
    content = f"sha256:{lfs['sha256']}" if lfs else f"blob:{entry['blob_id']}"
    return FileIdentity(entry["name"].rsplit("/", 1)[-1], int(entry["size"]), content)
