"""Repositories of a Hugging Face hub, ``hf://owner/name@revision``, read only, each pinned to one commit."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cached_property
from typing import Any, TypeVar

from svc_dist.errors import StorageError, SvcDistError, TransientStorageError
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.fsspec import FsspecStorage
from svc_dist.storage.hub.cache import cache_folder
from svc_dist.storage.secrets import learn

Answer = TypeVar("Answer")

#: The path of a repository at a commit, maybe with a folder in it: nothing of it can move.
_PINNED = re.compile(r"[^/@]+/[^/@]+@[0-9a-f]{40}(/.*)?")
_TRIED, _REACHED = 10.0, 12.0  # seconds for which a first request is retried, and within which it must be answered
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

    read_only = "a hub takes whole files only, so svc_dist makes a model elsewhere first"
    read_only_hint = "svc-dist merge RECIPE hf://owner/name --staging FOLDER uploads it; other commands take FOLDER"
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

    def reach(self) -> None:
        """Fail within seconds, rather than after all retries, where the hub cannot be reached."""
        if "" not in self._listings:
            self.commit()
            _within(_REACHED, lambda: self._files("", _TRIED), f"cannot reach {self._hub}")

    def commit(self) -> str:
        """The commit that the revision names now; an answer or an error within seconds."""
        if "_pinned" not in vars(self):
            vars(self)["_pinned"] = _within(_REACHED, lambda: self._pin(_TRIED), f"cannot reach {self._hub}")
        return self._pinned.partition("@")[2].partition("/")[0]

    @property
    def _hub(self) -> str:
        return f"the hub {self.filesystem.endpoint} for {self.location}"

    @cached_property
    def _pinned(self) -> str:
        return self._pin(min(self.access.patience, self.access.deadline))

    def _pin(self, deadline: float) -> str:
        """The path with its revision's commit in place of the revision."""
        if _PINNED.fullmatch(self.root):
            return self.root
        from huggingface_hub import HfApi, get_token

        learn(filter(None, [get_token()]))

        def attempt() -> str:
            resolved = self.filesystem.resolve_path(self.root)
            if not hasattr(resolved, "repo_id"):
                raise StorageError(f"{self.location} is no repository", "write it like hf://owner/name@revision")
            api = HfApi(endpoint=self.filesystem.endpoint, token=self.filesystem.token)
            commit = api.repo_info(
                resolved.repo_id, repo_type=resolved.repo_type, revision=resolved.revision, timeout=_TRIED
            ).sha
            plain = resolved.unresolve()
            repository = plain[: len(plain) - len(resolved.path_in_repo)].rstrip("/").split("@")[0]
            return "/".join(part for part in (f"{repository}@{commit}", resolved.path_in_repo) if part)

        return self.retrying(attempt, f"cannot open {self.location}", deadline=deadline)

    @cached_property
    def _listings(self) -> dict[str, dict[str, FileIdentity]]:
        return {}

    def _files(self, folder: str, deadline: float | None = None) -> dict[str, FileIdentity]:
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
            self._listings[folder] = self.retrying(attempt, f"cannot list {self.location}", deadline=deadline)
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
            return StorageError(f"{what}: {reason.partition('. If the repo')[0]}", f"{_HINTS[404]}; {_token_hint()}")
        if isinstance(error, ValueError):  # of the client, before it asks
            return StorageError(f"{what}: {reason}", "write it like hf://owner/name@revision")
        if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):  # of whichever httpx it is built on
            return TransientStorageError(f"{what}: {type(error).__name__}: {reason}", _unreachable())
        return super().translate(error, what)


def _identity(entry: dict[str, Any]) -> FileIdentity:
    """The identity of a file by its content: the SHA-256 of a large file, else git's hash."""
    lfs = entry.get("lfs")
    content = f"sha256:{lfs['sha256']}" if lfs else f"blob:{entry['blob_id']}"
    return FileIdentity(entry["name"].rsplit("/", 1)[-1], int(entry["size"]), content)


def _within(seconds: float, attempt: Callable[[], Answer], what: str) -> Answer:
    """The result of an attempt. Raises StorageError after ``seconds``: looking up a name may block for longer."""
    done: Future[Answer] = Future()

    def run() -> None:
        try:
            done.set_result(attempt())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="reach-hub", daemon=True).start()
    try:
        return done.result(seconds)
    except FutureTimeoutError:
        raise StorageError(f"{what}: no answer within {seconds:.0f} s", _unreachable()) from None


def _token_hint() -> str:
    """What to do about a repository that a hub may hide."""
    from huggingface_hub import get_token

    if get_token() is None:
        return "a private or gated repository needs HF_TOKEN, or `hf auth login`"
    return "of a private or gated repository, check that the token (HF_TOKEN, `hf auth login`) may read it"


def _unreachable() -> str:
    return (
        "check the network and HF_ENDPOINT; a model written owner/name is read from the local hub cache "
        f"({cache_folder()}) where that has it, and with HF_HUB_OFFLINE=1 only from there"
    )
