"""A branch of a hub's repository that files are uploaded to: whole files, in commits that follow one another.

A hub takes no ranges and has no locks. Large files are uploaded first, by the hash of their content, and become visible
with the commit that names them. Each commit names its parent: one by another program in between makes it fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from svc_dist.errors import OutputError, StorageError
from svc_dist.storage.access import Access
from svc_dist.storage.base import os_errors
from svc_dist.storage.hub.cache import COMMIT, parse_hub_id
from svc_dist.storage.hub.refusals import HINTS, MovedError, translated
from svc_dist.storage.hub.repository import HubStorage
from svc_dist.storage.secrets import learn

Answer = TypeVar("Answer")

SCHEME = "hf://"
CODE = "hub-output-refused"
_MAIN = "main"
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Place:
    """Where on a hub: ``owner/name`` and a branch. ``location``: its URL."""

    repository: str
    branch: str

    @property
    def location(self) -> str:
        return f"{SCHEME}{self.repository}" + ("" if self.branch == _MAIN else f"@{self.branch}")


def parse_place(location: str) -> Place:
    """The branch that ``hf://owner/name@branch`` names. Raises OutputError for anything else."""
    named = parse_hub_id(location.removeprefix(SCHEME).rstrip("/"))
    hint = "write OUTPUT like hf://owner/name, or hf://owner/name@branch"
    if named is None:
        raise OutputError(f"{location} is no repository of models: a merge fills one, from its root", hint, code=CODE)
    branch = named.revision or _MAIN
    if COMMIT.fullmatch(branch):
        raise OutputError(f"{location} names a commit, which never changes: a merge needs a branch", hint, code=CODE)
    if not _BRANCH.fullmatch(branch) or branch.endswith((".", ".lock")) or ".." in branch:
        raise OutputError(f"{location}: '{branch}' is no branch that svc_dist writes to", hint, code=CODE)
    return Place(named.repository, branch)


@dataclass(frozen=True)
class Remote:
    """A repository as it is: ``head``: the commit of the branch, None where there is no such branch yet."""

    private: bool
    head: str | None


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit by its content: the SHA-256 of a large one, else git's hash."""

    size: int
    sha256: str | None
    blob: str


@dataclass(frozen=True)
class Addition:
    """A file that was sent, for a commit: its content's size and hashes. ``in_commit``: whether the commit itself sends
    the content, which must stay until then; ``operation``: the client's."""

    name: str
    size: int
    sha256: str
    blob: str | None
    in_commit: bool
    operation: Any = field(repr=False)

    def is_there(self, remote: RemoteFile | None) -> bool:
        if remote is None or remote.size != self.size:
            return False
        return remote.blob == self.blob if remote.sha256 is None else remote.sha256 == self.sha256


def git_hash(data: bytes) -> str:
    """The hash by which git knows a small file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class HubBranch:
    """Uploads to one branch. Raises StorageError."""

    def __init__(self, place: Place, access: Access) -> None:
        self.place = place
        self._storage = HubStorage(place.location, access)

    @cached_property
    def _api(self) -> Any:
        from huggingface_hub import HfApi, constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise StorageError(f"{self.place.location}: HF_HUB_OFFLINE=1 forbids uploads", "unset HF_HUB_OFFLINE")
        filesystem = self._storage.filesystem
        token = filesystem.token or get_token()
        if not token:
            raise StorageError(f"{self.place.location}: there is no token for the hub", HINTS[401])
        learn([token])
        return HfApi(endpoint=filesystem.endpoint, token=token)

    def look(self, deadline: float | None = None) -> Remote | None:
        """The repository as it is now; None where there is none that the token may see.

        ``deadline``: seconds of retries, where not those of the storage.
        """
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        def ask() -> Remote | None:
            try:
                info = self._api.model_info(self.place.repository, timeout=self._storage.access.timeout)
            except RepositoryNotFoundError:
                return None
            if self.place.branch == _MAIN:
                return Remote(bool(info.private), info.sha)
            try:
                head = self._api.model_info(self.place.repository, revision=self.place.branch).sha
            except RevisionNotFoundError:
                head = None
            return Remote(bool(info.private), head)

        return self._calling(ask, "look at", deadline)

    def create(self, existing: Remote | None, public: bool) -> str:
        """Make the repository and the branch where they are missing. Returns the branch's commit."""
        name, branch = self.place.repository, self.place.branch
        if existing is None:
            self._calling(lambda: self._api.create_repo(name, private=not public, exist_ok=True), "create")
        if branch != _MAIN and (existing is None or existing.head is None):
            first = self._calling(lambda: self._api.list_repo_commits(name)[-1].commit_id, "look at")
            self._calling(
                lambda: self._api.create_branch(name, branch=branch, revision=first, exist_ok=True), "make a branch of"
            )
        now = self.look()
        if now is None or now.head is None:
            raise StorageError(f"{self.place.location} was created, but is not there", "run the same command again")
        if existing is None and not public and not now.private:  # made by another meanwhile
            raise OutputError(f"{self.place.location} is public now", "name another repository", code=CODE)
        self.require_writable(now)
        return now.head

    def require_creatable(self) -> None:
        """Ask for the owner of the token, for a repository that does not exist yet. Raises StorageError where it may
        not make one there."""
        user = self._calling(lambda: self._api.whoami(), "ask who may write to")
        owner, role = self.place.repository.partition("/")[0], user.get("auth", {}).get("accessToken", {}).get("role")
        owners = {str(one.get("name")).lower() for one in (user, *user.get("orgs", ()))}
        reason = "the token may only read" if role == "read" else None
        if role == "write" and owner.lower() not in owners:  # a fine-grained token has rights of its own
            reason = f"the token's user is neither {owner} nor a member of it"
        if reason is not None:
            raise StorageError(f"cannot create {self.place.location}: {reason}", HINTS[403])

    def require_writable(self, remote: Remote) -> None:
        """Ask how a small file would be sent, and send none: a token that may only read is refused here."""
        from huggingface_hub import CommitOperationAdd

        def ask() -> None:
            operation = CommitOperationAdd("config.json", b"{}")
            branch = _MAIN if remote.head is None else self.place.branch
            self._api.preupload_lfs_files(self.place.repository, [operation], revision=branch)

        self._calling(ask, "write to")

    def files(self, commit: str) -> dict[str, RemoteFile]:
        """The files of a commit by their path."""

        def ask() -> dict[str, RemoteFile]:
            entries = self._api.list_repo_tree(self.place.repository, revision=commit, recursive=True)
            return {
                one.path: RemoteFile(one.size, one.lfs.sha256 if one.lfs else None, one.blob_id)
                for one in entries
                if hasattr(one, "blob_id")
            }

        return self._calling(ask, "list")

    def upload(self, name: str, content: Path) -> Addition:
        """Send a file, which stays invisible until a commit names it; nothing where the hub has its content already."""
        from huggingface_hub import CommitOperationAdd

        def send() -> Addition:
            operation = CommitOperationAdd(name, content)
            with _without_bars():
                self._api.preupload_lfs_files(
                    self.place.repository, [operation], revision=self.place.branch, free_memory=False
                )
            in_commit = getattr(operation, "_upload_mode", None) != "lfs"
            blob = git_hash(content.read_bytes()) if in_commit else None
            info = operation.upload_info
            return Addition(name, info.size, info.sha256.hex(), blob, in_commit, operation)

        return self._calling(send, f"upload {name} to")

    def small(self, name: str, data: bytes) -> Addition:
        """A small file, which the commit itself sends."""
        from huggingface_hub import CommitOperationAdd

        return Addition(name, len(data), sha256_of(data), git_hash(data), True, CommitOperationAdd(name, data))

    def commit(self, additions: Sequence[Addition], message: str, parent: str) -> str:
        """Make uploaded files visible, all in one step, on top of a commit. Returns the new commit.

        Raises MovedError where the branch has moved on from its parent.
        """

        def send() -> str:
            with _without_bars():
                made = self._api.create_commit(
                    self.place.repository, [one.operation for one in additions], commit_message=message,
                    revision=self.place.branch, parent_commit=parent,
                )  # fmt: skip
            return str(made.oid)

        try:
            return self._calling(send, "commit to")
        except MovedError:
            now = self.look()  # an answer that was lost: the commit is ours
            if now is not None and now.head is not None and self._has(now.head, additions):
                return now.head
            raise

    def _has(self, commit: str, additions: Sequence[Addition]) -> bool:
        files = self.files(commit)
        return all(one.is_there(files.get(one.name)) for one in additions)

    def _calling(self, ask: Callable[[], Answer], what: str, deadline: float | None = None) -> Answer:
        text = f"cannot {what} {self.place.location}"

        def attempt() -> Answer:
            try:
                return ask()
            except Exception as error:
                failed = translated(self._storage, error, text)
            raise failed  # outside the handler: its context would be the client's error, which may quote credentials

        return self._storage.retrying(attempt, text, deadline=deadline)


def same(remote: RemoteFile, content: Path) -> bool:
    """Whether a hub's file has this content. Raises StorageError where that cannot be read."""
    with os_errors(f"cannot read {content}"):
        if remote.size != content.stat().st_size:
            return False
        if remote.sha256 is None:
            return remote.blob == git_hash(content.read_bytes())
        return remote.sha256 == sha256_of(content)


def sha256_of(content: Path | bytes) -> str:
    """The hash by which a hub knows a large file."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Run without the client's progress bars, which write between the lines of a log."""
    utils: Any = importlib.import_module("huggingface_hub.utils")  # whose functions are public, but not to mypy
    disabled = utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            utils.enable_progress_bars()
