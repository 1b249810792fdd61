"""What a merge needs of a file system is tried on a small file, before any work."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svc_dist.errors import StorageError
from svc_dist.storage.writing import probe
from svc_dist.storage.writing.probe import has_kernel_locks, require_writes_anywhere


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_disk_passes_and_keeps_nothing(tmp_path: Path) -> None:
    require_writes_anywhere(tmp_path)
    assert has_kernel_locks(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "number", "words"),
    [("ftruncate", errno.EPERM, "set a file's size"), ("pwrite", errno.EINVAL, "write at any position"),
     ("fsync", errno.ENOSYS, "make a file durable")],
)  # fmt: skip
def test_a_file_system_that_only_appends_is_refused_with_the_way_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, words: str
) -> None:
    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(StorageError, match=f"this file system cannot {words}") as caught:
        require_writes_anywhere(tmp_path)
    assert "s3://bucket/folder" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_one_that_cannot_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", failing(errno.ENOSYS))
    with pytest.raises(StorageError, match="cannot rename a file over another"):
        require_writes_anywhere(tmp_path)


@pytest.mark.parametrize(
    ("kind", "url"),
    [("fuse mountpoint-s3", "s3://"), ("fuse.s3fs s3fs", "s3://"), ("fuse.gcsfuse models", "gs://")],
)
def test_the_mount_of_a_bucket_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, url: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {tmp_path} rw,nosuid - {kind} rw\n")
    monkeypatch.setattr(probe, "_MOUNTS", mounts)
    monkeypatch.setattr(os, "pwrite", failing(errno.EIO))
    with pytest.raises(StorageError, match="cannot write at any position") as caught:
        require_writes_anywhere(tmp_path)
    assert kind.split()[0].rpartition(".")[2] in str(caught.value.hint) or kind.split()[1] in str(caught.value.hint)
    assert url in str(caught.value.hint)


def test_a_full_disk_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
    with pytest.raises(StorageError, match="No space left") as caught:
        require_writes_anywhere(tmp_path)
    assert "free space" in str(caught.value.hint)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    assert not has_kernel_locks(tmp_path)
