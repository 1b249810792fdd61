"""A branch of a hub: its name, what is the same content, what a refusal says (svc_dist.storage.hub.branch).

What it does with a hub is in tests/run/hub/test_staged.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from svc_dist.errors import LockedError, OutputError, StorageError, TransientStorageError
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.hub.branch import HubBranch, Place, RemoteFile, git_hash, parse_place, same


@pytest.mark.parametrize(
    ("location", "place"),
    [("hf://acme/m", Place("acme/m", "main")), ("hf://acme/m.v2@next-1/", Place("acme/m.v2", "next-1"))],
)
def test_a_branch_by_its_url(location: str, place: Place) -> None:
    assert parse_place(location) == place
    assert parse_place(place.location) == place


@pytest.mark.parametrize("branch", ["a/b", "a..b", "x.lock", "x.", "-x"])
def test_names_that_are_no_branches(branch: str) -> None:
    with pytest.raises(OutputError):
        parse_place(f"hf://acme/m@{branch}")


def test_gits_hash_is_that_of_git() -> None:
    assert git_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_content_is_compared_by_the_hash_that_the_hub_has(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"hello\n")
    large = RemoteFile(6, hashlib.sha256(b"hello\n").hexdigest(), "of a pointer")
    small = RemoteFile(6, None, git_hash(b"hello\n"))
    for remote in (large, small):
        assert same(remote, b"hello\n")
        assert same(remote, file)
        assert not same(remote, b"hallo\n")
        assert not same(remote, b"hello")
    assert not same(None, file)
    assert same(large, file, large.sha256)
    assert not same(large, file, "0" * 64)


def test_a_lost_connection_is_transient_also_as_the_cause_of_another_error() -> None:
    class TransportError(Exception):
        """The name of httpx's base class."""

    error, cause = RuntimeError("Error while uploading"), TransportError("refused")
    cause.__cause__ = Exception("of a lower layer")
    error.__cause__ = cause
    branch = HubBranch(Place("acme/m", "main"), DEFAULT_ACCESS)
    assert type(branch._translated(error, "cannot upload")) is TransientStorageError
    error.__cause__ = ConnectionResetError()
    assert type(branch._translated(error, "cannot upload")) is TransientStorageError


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (401, StorageError, "a token that may write"),
        (403, StorageError, "may not write"),
        (412, LockedError, "a branch of its own"),
        (429, TransientStorageError, "limits uploads"),
        (503, TransientStorageError, "check the network"),
    ],
)
def test_a_refusal_says_what_to_do_also_as_the_cause_of_another_error(
    status: int, kind: type[Exception], hint: str
) -> None:
    cause = OSError("no")
    cause.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    error = RuntimeError("Error while uploading")
    error.__cause__ = cause
    failed = HubBranch(Place("acme/m", "main"), DEFAULT_ACCESS)._translated(error, "cannot upload")
    assert type(failed) is kind
    assert hint in str(failed)
