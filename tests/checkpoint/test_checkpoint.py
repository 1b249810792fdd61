"""What a checkpoint holds is told by its index and its headers, and both must agree."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from svc_dist.checkpoint.checkpoint import KnownHeaders, open_checkpoint, open_model, read_checkpoint, rename_keys
from svc_dist.errors import DamagedInputError, RecipeError, StorageError
from tests.support.checkpoints import (
    INDEX,
    entry,
    llama_config,
    llama_like,
    llama_shapes,
    raw_file,
    sparse_checkpoint,
    write_checkpoint,
    write_index,
)

A = {"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_every_tensor_is_found_with_its_place(tmp_path: Path, shards: int) -> None:
    tensors = llama_like(0)
    model = open_checkpoint(str(write_checkpoint(tmp_path, tensors, shards=shards, config=llama_config())))
    assert len(model.files) == shards
    assert {name: spec.shape for name, spec in model.tensors.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    assert model.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    assert model.config is not None
    assert model.config["model_type"] == "llama"
    for name, spec in model.tensors.items():
        with (tmp_path / spec.file).open("rb") as file:
            file.seek(spec.start)
            assert file.read(spec.nbytes) == tensors[name].contiguous().view(torch.uint8).numpy().tobytes()


def test_a_single_file_may_have_any_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, A, shards=1)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    assert set(open_checkpoint(str(tmp_path)).tensors) == {"a", "b"}


def test_files_beside_the_index_are_not_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, A)
    (tmp_path / "stale-00001-of-00007.safetensors").write_bytes(b"garbage")
    assert set(open_checkpoint(str(tmp_path)).tensors) == {"a", "b"}


def test_a_header_larger_than_the_first_read_is_read_whole(tmp_path: Path) -> None:
    shapes = {f"model.layers.{number}.{'x' * 100}.weight": (2,) for number in range(2000)}
    model = open_checkpoint(str(sparse_checkpoint(tmp_path, shapes)))
    assert set(model.tensors) == set(shapes)


def test_opening_reads_no_weights(tmp_path: Path) -> None:
    shapes = llama_shapes(80, 8192, 28672, 128256, 1024)
    model = open_checkpoint(str(sparse_checkpoint(tmp_path, shapes)))
    assert model.nbytes > 140e9
    assert sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir()) < 2e6


def test_no_config_is_no_error(tmp_path: Path) -> None:
    assert open_checkpoint(str(write_checkpoint(tmp_path, A))).config is None


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(DamagedInputError) as caught:
        open_checkpoint(str(folder))
    for word in (str(folder), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "file",
    ["../outside.safetensors", "/etc/outside.safetensors", "a/../../outside.safetensors", "..\\outside.safetensors",
     "C:outside.safetensors", "s3://b/outside.safetensors", "nul\0.safetensors", ""],
)  # fmt: skip
def test_an_index_cannot_point_outside_its_folder(tmp_path: Path, file: str) -> None:
    inner = tmp_path / "inner"
    write_checkpoint(inner, A)
    raw_file(tmp_path / "outside.safetensors", {"a": entry("F32", [1], 0)}, bytes(4))
    write_index(inner, {"a": file})
    refused(inner, INDEX, "'a'", "outside the checkpoint's folder")


def test_an_index_cannot_point_at_a_pickle(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, A)
    write_index(tmp_path, {"a": "pytorch_model.bin"})
    refused(tmp_path, "'a'", "pytorch_model.bin", "not a safetensors file")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, A)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, "model-00002-of-00002.safetensors", "missing", "download the model again")


def test_a_tensor_that_the_index_does_not_name_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, A)
    write_index(tmp_path, {"a": "model-00001-of-00002.safetensors"})
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    refused(tmp_path, "'b'", "model-00001-of-00002.safetensors", "does not name it")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {**A, "c": torch.zeros(1)}, shards=1)
    (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
    raw_file(tmp_path / "two.safetensors", {"a": entry("F32", [1], 0), "d": entry("F32", [1], 4)}, bytes(8))
    write_index(
        tmp_path, {"a": "one.safetensors", "b": "one.safetensors", "c": "one.safetensors", "d": "two.safetensors"}
    )
    refused(tmp_path, "'a'", "two.safetensors", "one.safetensors")


def test_a_tensor_that_only_the_index_knows_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, A)
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    write_index(tmp_path, {"a": first, "b": second, "ghost": second})
    refused(tmp_path, "'ghost'", second)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}',
     '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "[" * 100_000],
)  # fmt: skip
def test_a_malformed_index_is_refused(tmp_path: Path, text: str) -> None:
    write_checkpoint(tmp_path, A)
    (tmp_path / INDEX).write_text(text)
    refused(tmp_path, INDEX, "not a safetensors index")


def test_an_index_beside_a_single_file_that_it_does_not_name_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, A)
    write_checkpoint(tmp_path, A, shards=1)
    refused(tmp_path, "model.safetensors", "remove the stale one")


def test_several_files_without_an_index_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, A)
    (tmp_path / INDEX).unlink()
    refused(tmp_path, "2 safetensors files but no index", INDEX)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.ckpt"])
def test_pickles_are_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    refused(tmp_path, name, "pickle", "save_pretrained")


def test_an_empty_folder_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nothing is there\n  check the path"):
        open_checkpoint(str(tmp_path))


def test_a_folder_without_weights_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path, "no safetensors file", "check the path")


def test_a_missing_folder_is_a_wrong_path(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere: no such folder"):
        open_checkpoint(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_malformed_config_is_refused(tmp_path: Path, text: str) -> None:
    write_checkpoint(tmp_path, A)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    refused(tmp_path, "config.json", "not")


def test_damage_in_a_header_names_folder_and_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, A)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)
    refused(tmp_path, str(shard), "truncated")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    refused(tmp_path, "model.safetensors", "not a regular file")


def test_a_remote_checkpoint_is_read_like_a_local_one(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    write_checkpoint(tmp_path, llama_like(0), config=llama_config())
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/", "/index-test/", recursive=True)
    remote, local = open_checkpoint("memory://index-test"), open_checkpoint(str(tmp_path))
    assert (remote.tensors, remote.config) == (local.tensors, local.config)


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(RecipeError, match="/here: rename makes two tensors one"):
        rename_keys({"a.x": 1, "a.y.x": 2}, [("*.y.*", "*.*")], "/here")
    with pytest.raises(RecipeError, match="/here: rename makes two tensors one"):
        rename_keys({"a.x": 1, "x": 2}, [("a.", "")], "/here")


def test_models_with_one_header_share_its_tensors(tmp_path: Path) -> None:
    known = KnownHeaders()
    for name, tensors in (("one", A), ("other", A), ("longer", {**A, "c": torch.zeros(1)})):
        write_checkpoint(tmp_path / name, tensors)
    one, other, longer = (
        read_checkpoint(str(tmp_path / name), *open_model(str(tmp_path / name)), known)
        for name in ("one", "other", "longer")
    )
    assert all(one.tensors[name] is other.tensors[name] for name in A)
    assert one.location != other.location
    assert longer.tensors == open_checkpoint(str(tmp_path / "longer")).tensors


@pytest.mark.parametrize("escaped", [False, True])
def test_an_index_that_names_a_tensor_twice_is_refused(tmp_path: Path, escaped: bool) -> None:
    write_checkpoint(tmp_path, A, shards=2)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    name = "\\u0061" if escaped else "a"
    (tmp_path / INDEX).write_text(f'{{"weight_map": {{"a": "{files[0]}", "b": "{files[1]}", "{name}": "{files[0]}"}}}}')
    with pytest.raises(DamagedInputError, match="'a' stands there twice"):
        open_checkpoint(str(tmp_path))


def test_an_index_with_other_sections_and_escapes_is_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {'a"b': torch.zeros(2), "c": torch.ones(2)}, shards=2)
    index = json.loads((tmp_path / INDEX).read_text())
    index |= {"metadata": {"total_size": 16, "note": "weight_map"}, "other": [1, {"x": "y"}]}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert [*open_checkpoint(str(tmp_path)).tensors] == ['a"b', "c"]
