"""Ranges in: the bytes asked for, of the files planned with, from wherever they are."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.checkpoint.tensor_view import tensor_view
from svc_dist.errors import ChangedInputError, DamagedInputError, RecipeError, StorageError, TransientStorageError
from svc_dist.storage.base import storage_error
from svc_dist.storage.open import open_storage
from svc_dist.storage.reading import ByteRange, Source, can_map, map_ranges
from svc_dist.storage.secrets import redact, refuse_credentials
from tests.support.checkpoints import llama_like, raw_file, write_checkpoint

CONTENT = bytes(range(256)) * 2000


def source_of(folder: Path | str) -> Source:
    opened = open_storage(str(folder))
    identities = [found for name in opened.names() if (found := opened.stat(name)) is not None]
    return Source(str(folder), identities)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    memory.pipe("/source-test/file", CONTENT)
    yield "memory://source-test"
    memory.store.pop("/source-test/file", None)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("source")
    (folder / "file").write_bytes(CONTENT)
    return source_of(folder)


RANGES = st.lists(
    st.tuples(st.integers(0, len(CONTENT)), st.integers(0, len(CONTENT))).map(sorted), min_size=1, max_size=6
)


@given(RANGES)
def test_a_view_is_exactly_the_bytes_asked_for(local: Source, pairs: list[list[int]]) -> None:
    wanted = [ByteRange("file", start, end) for start, end in pairs]
    with local.map(wanted) as mapped:
        for item in wanted:
            assert bytes(mapped.view(item)) == CONTENT[item.start : item.end]
            mapped.release()
            assert bytes(mapped.view(item)) == CONTENT[item.start : item.end]


def test_remote_ranges_are_the_same_bytes_as_local_ones(remote: str, local: Source, tmp_path: Path) -> None:
    wanted = [ByteRange("file", 7, 7), ByteRange("file", 1, 70_000), ByteRange("file", 300_001, 500_000)]
    scratch = tmp_path / "scratch"
    with map_ranges([source_of(remote)], [wanted], str(scratch)) as reading, local.map(wanted) as mapped:
        fetched = reading.mapped[0]
        assert [bytes(fetched.view(item)) for item in wanted] == [bytes(mapped.view(item)) for item in wanted]
        assert list(scratch.iterdir()) == []  # unlinked at once: nothing stays behind, however the process ends


@pytest.mark.parametrize("private", [True, False], ids=["private", "none"])
def test_files_that_cannot_be_mapped_shared_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    """As on mergerfs and some FUSE and network mounts: a private mapping, or else the scratch file."""
    (tmp_path / "file").write_bytes(CONTENT)
    source, real = source_of(tmp_path), mmap.mmap
    inode = (tmp_path / "file").stat().st_ino

    def refuse(descriptor: int, *args: Any, **keys: Any) -> mmap.mmap:
        if os.fstat(descriptor).st_ino == inode and not (private and keys["flags"] == mmap.MAP_PRIVATE):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return real(descriptor, *args, **keys)

    monkeypatch.setattr(mmap, "mmap", refuse)
    wanted = [ByteRange("file", 5, 5000), ByteRange("file", 300_000, 300_001)]
    assert can_map(tmp_path / "file") is private
    with map_ranges([source], [wanted], str(tmp_path / "scratch")) as reading:
        for item in wanted:
            assert bytes(reading.mapped[0].view(item)) == CONTENT[item.start : item.end]
    assert (tmp_path / "scratch").exists() is not private


def test_scratch_space_that_cannot_be_mapped_says_what_to_do(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> mmap.mmap:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", refuse)
    with (
        pytest.raises(StorageError, match="cannot use scratch space") as caught,
        map_ranges([source_of(remote)], [[ByteRange("file", 0, 9)]], str(tmp_path)),
    ):
        pass
    assert "--scratch" in str(caught.value.hint)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_scratch_space_that_cannot_be_reserved_is_used(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with map_ranges([source_of(remote)], [[ByteRange("file", 0, 9)]], str(tmp_path)) as reading:
        assert bytes(reading.mapped[0].view(ByteRange("file", 0, 9))) == CONTENT[:9]


def test_views_are_read_only(local: Source) -> None:
    item = ByteRange("file", 0, 10)
    with local.map([item]) as mapped:
        assert mapped.view(item).readonly


@pytest.mark.parametrize("padding", [0, 1, 3, 5])
def test_tensors_at_odd_offsets_are_read(tmp_path: Path, padding: int) -> None:
    values = torch.arange(1000, dtype=torch.bfloat16)
    header = b'{"a":{"dtype":"BF16","shape":[1000],"data_offsets":[0,2000]}}' + b" " * padding
    raw_file(tmp_path / "model.safetensors", header, values.view(torch.uint8).numpy().tobytes())
    spec = open_checkpoint(str(tmp_path)).tensors["a"]
    assert spec.start == 8 + len(header)
    with source_of(tmp_path).map([wanted := ByteRange(spec.file, spec.start, spec.end)]) as mapped:
        assert torch.equal(tensor_view(mapped.view(wanted), "BF16"), values)


def mapped_once(source: Source, file: str) -> None:
    with source.map([ByteRange(file, 0, 8)]):
        pass


@pytest.mark.parametrize("change", ["truncated", "longer", "touched", "replaced"])
def test_a_file_changed_since_the_plan_is_noticed(tmp_path: Path, change: str) -> None:
    write_checkpoint(tmp_path, llama_like(0), shards=1)
    file = tmp_path / "model.safetensors"
    source = source_of(tmp_path)
    mapped_once(source, file.name)
    status = file.stat()
    match change:
        case "truncated":
            os.truncate(file, status.st_size - 100)
        case "longer":
            os.truncate(file, status.st_size + 1)
        case "touched":
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        case "replaced":
            raw_file(tmp_path / "other", {}, bytes(status.st_size)).replace(file)
    with pytest.raises(ChangedInputError, match=r"model\.safetensors changed since the plan was made") as caught:
        mapped_once(source, file.name)
    assert "--restart" in str(caught.value)


def test_a_local_file_that_is_gone_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    source = source_of(tmp_path)
    (tmp_path / "file").unlink()
    with pytest.raises(StorageError, match=r"cannot open .*file: No such file"):
        mapped_once(source, "file")


def test_a_remote_file_changed_or_gone_is_noticed(remote: str) -> None:
    source = source_of(remote)
    memory = fsspec.filesystem("memory")
    memory.pipe("/source-test/file", CONTENT[:-1])
    with pytest.raises(ChangedInputError, match="file changed since the plan was made"):
        mapped_once(source, "file")
    memory.rm("/source-test/file")
    with pytest.raises(ChangedInputError, match=r"file changed since the plan was made: .* is gone"):
        mapped_once(source, "file")


def test_scratch_space_that_cannot_be_used_is_named(remote: str, tmp_path: Path) -> None:
    (tmp_path / "scratch").write_text("a file, not a folder")
    source, wanted = source_of(remote), [ByteRange("file", 0, 8)]
    with (
        pytest.raises(StorageError, match=f"cannot use scratch space in {tmp_path}/scratch"),
        map_ranges([source], [wanted], str(tmp_path / "scratch")),
    ):
        pass


def test_fewer_bytes_than_asked_for_are_damage(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    with pytest.raises(DamagedInputError, match="asked for bytes 0 to 10, got 5; the file is truncated"):
        open_storage(str(tmp_path)).read("file", 0, 10)


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(RecipeError, match="nosuch://bucket"):
        open_storage("nosuch://bucket/model")


def test_timeouts_and_resets_may_pass_and_missing_files_do_not() -> None:
    assert isinstance(storage_error(TimeoutError("slow"), "x"), TransientStorageError)
    assert isinstance(storage_error(ConnectionResetError(104, "reset"), "x"), TransientStorageError)
    assert not isinstance(storage_error(FileNotFoundError(2, "No such file"), "x"), TransientStorageError)


SECRET = "s3cr3t"
SIGNED = [
    f"https://user:{SECRET}@host/model",
    f"https://{SECRET}@host/model",
    f"s3://AKIA:{SECRET}@bucket/model",
    f"s3://AKIA:with/slash{SECRET}@bucket/model",
    f"ftp://user:{SECRET}@host/model",
    f"simplecache::https://user:{SECRET}@host/model",
    f"simplecache::s3://bucket::https://user:{SECRET}@host/model",
    f"https://host/model?X-Amz-Credential=a&X-Amz-Signature={SECRET}",
    f"https://host/model?sv=2024-01-01&sig={SECRET}",
    f"https://host/model?token={SECRET}",
    f"https://host/model?%74oken={SECRET}",
    f"https://host/model?a=1&api_key={SECRET}",
    f"https://host/model#access_token={SECRET}",
    f"az://container/model?se=1&sig={SECRET}",
    f"gs://bucket/model?X-Goog-Signature={SECRET}",
    f"https://[broken:{SECRET}@host/model",
]


@pytest.mark.parametrize("url", SIGNED)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:3: the .* URL carries a credential") as caught:
        refuse_credentials(url, "recipe.yaml:3")
    assert SECRET not in str(caught.value)
    assert "environment" in str(caught.value)


@pytest.mark.parametrize("url", SIGNED)
def test_what_is_redacted_shows_no_credential(url: str) -> None:
    if "#" not in url and "slash" not in url:
        assert SECRET not in redact(f"ClientError: 403, url='{url}', message='Forbidden'")


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/model", "hf://org/model@main", "hf://gpt2@main", "abfs://container@account.dfs.core.windows.net/m",
     "sftp://user@host:22/model", "https://host:8080/model@v2", "https://host/model?download=true&author=me",
     "github://org:repo@v1/model", "s3://arn:aws:s3:us-east-1:1:accesspoint/p/model@v2", "s3://b/m?versionId=3",
     "file:///srv/model", "/srv/model?token=1", "../a:b@c/model"],
)  # fmt: skip
def test_locations_without_credentials_are_let_through(url: str) -> None:
    refuse_credentials(url)


def test_a_signed_url_in_a_client_s_error_is_cut() -> None:
    error = storage_error(ValueError(f"403 for 'https://cdn.host/blob?Expires=1&Signature={SECRET}'"), "cannot read x")
    assert SECRET not in str(error)
    assert "https://cdn.host/blob?..." in str(error)
