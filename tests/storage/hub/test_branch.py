"""A branch of a hub: its name, what is the same content (svc_dist.storage.hub.branch).

What it does with a hub is in tests/run/hub/test_staged.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from svc_dist.errors import OutputError, StorageError
from svc_dist.storage.hub.branch import Addition, Place, RemoteFile, git_hash, parse_place, same


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
    digest = hashlib.sha256(b"hello\n").hexdigest()
    large, small = RemoteFile(6, digest, "of a pointer"), RemoteFile(6, None, git_hash(b"hello\n"))
    sent = Addition("file", 6, digest, git_hash(b"hello\n"), True, None)
    for remote in (large, small):
        assert same(remote, file)
        assert sent.is_there(remote)
        assert not sent.is_there(replace(remote, size=5))
    file.write_bytes(b"hallo\n")
    for remote in (large, small):
        assert not same(remote, file)
        assert not replace(sent, sha256="0" * 64, blob="0").is_there(remote)
    assert not sent.is_there(None)
    with pytest.raises(StorageError, match=r"cannot read .*gone"):
        same(large, tmp_path / "gone")
