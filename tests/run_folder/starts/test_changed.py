"""A finished output that is met with a changed input: the error names what changed, and the output stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import ChangedInputError, DamagedInputError
from tests.support.checkpoints import recipe_data, tree_state, write_llamas

SEVERAL: dict[str, Any] = {"outputs": [{"path": "a"}, {"path": "b", "parameters": {"lambda": 0.5}}]}


@pytest.mark.parametrize(("more", "where"), [({}, ""), (SEVERAL, "/a")], ids=["one", "several"])
def test_it_names_the_file_and_the_report(more: dict[str, Any], where: str, tmp_path: Path) -> None:
    models = write_llamas(tmp_path / "models")
    output = tmp_path / "out"
    svc_dist.merge(recipe_data(models, **more), output, executor="inline")
    before = tree_state(output)
    shard = min(models[1].glob("*.safetensors"))
    os.utime(shard, (1, 1))
    with pytest.raises(ChangedInputError) as refused:
        svc_dist.merge(recipe_data(models, **more), output, executor="inline")
    assert refused.value.message.splitlines()[1].startswith(f"  {shard}: was ")
    assert f"{output}{where}/merge_report.json records" in (refused.value.hint or "")
    assert (output / where.strip("/") / "merge_report.json").exists()
    assert tree_state(output) == before


def test_an_input_that_can_no_longer_be_planned_leaves_the_output_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = write_llamas(tmp_path / "models")
    output = tmp_path / "out"
    svc_dist.merge(recipe_data(models), output, executor="inline")
    before = tree_state(output)
    shard = min(models[1].glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(DamagedInputError, match="truncated"):
        svc_dist.merge(recipe_data(models), output, executor="inline")
    assert f"{output} holds a complete merge, which stays as it is; its inputs have changed since" in caplog.text
    assert tree_state(output) == before
