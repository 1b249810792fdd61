"""Finished shards are held against the plan: names, dtypes and shapes on a disk, header and size elsewhere."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch

import svc_dist
from svc_dist.errors import VerificationError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.shard_check import check_shards, read_by_safetensors
from tests.support.checkpoints import recipe_data, write_checkpoint, write_llamas


@pytest.fixture
def merged(tmp_path: Path) -> tuple[Plan, Output]:
    recipe = recipe_data(write_llamas(tmp_path / "models"), max_shard_size="4kB")
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    return svc_dist.make_plan(recipe, device="cpu"), Output(str(tmp_path / "out"))


@pytest.fixture
def remote(merged: tuple[Plan, Output]) -> Iterator[Output]:
    """The same shards in a storage that is no disk."""
    root = f"memory://{uuid.uuid4().hex}"
    output = Output(root)
    for shard in merged[0].shards:
        output.storage.put(shard.file, merged[1].storage.read(shard.file))
    yield output
    fsspec.filesystem("memory").rm(root, recursive=True)


def test_shards_as_they_were_planned_pass(merged: tuple[Plan, Output], remote: Output) -> None:
    check_shards(*merged)
    check_shards(merged[0], remote)


def test_a_shard_of_other_tensors_is_refused(merged: tuple[Plan, Output]) -> None:
    plan, output = merged
    first, second = (Path(output.location) / shard.file for shard in plan.shards[:2])
    second.write_bytes(first.read_bytes())
    with pytest.raises(VerificationError, match=f"{second}: .* missing"):
        check_shards(plan, output)


def test_a_shard_that_no_reader_takes_is_refused(merged: tuple[Plan, Output]) -> None:
    plan, output = merged
    file = Path(output.location) / plan.shards[0].file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(VerificationError, match="cannot read it"):
        check_shards(plan, output)


@pytest.mark.parametrize("damage", ["longer", "another header", "gone"])
def test_elsewhere_size_and_header_are_compared(merged: tuple[Plan, Output], remote: Output, damage: str) -> None:
    plan, _ = merged
    file = plan.shards[1].file
    data = remote.storage.read(file)
    remote.storage.delete(file)
    if damage != "gone":
        remote.storage.put(file, data + b"x" if damage == "longer" else data[:20] + b" " + data[21:])
    with pytest.raises(VerificationError, match=f"{file}: differs from the plan"):
        check_shards(plan, remote)


def test_dtypes_and_shapes_are_as_the_library_sees_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(())})
    seen = {}
    for file in folder.glob("*.safetensors"):
        seen |= read_by_safetensors(file)
    assert seen == {"a": ("BF16", [2, 3]), "b": ("F32", [])}
