"""What an unfinished run left is listed as it is, and removed without anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.run_folder.leftovers import remains, remove_run
from svc_dist.run_folder.output import Output
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.stopped import stop_merge


@pytest.fixture
def stopped(tmp_path: Path) -> Output:
    """A run with two receipts."""
    recipe = write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path / "models"), max_shard_size="1kB")
    stop_merge(recipe, tmp_path / "out", 2)
    return Output(str(tmp_path / "out"))


def test_units_and_bytes_are_those_with_receipts(stopped: Output) -> None:
    left = remains(stopped)
    assert left.plan is not None
    assert (left.units, left.units_done) == (len(left.plan.units), 2)
    assert left.bytes_done == sum(left.plan.unit[unit].bytes_out for unit in stopped.journal.receipts(left.plan))
    assert left.files == [name for name in stopped.storage.names() if name.endswith(".safetensors")]
    text = left.text()
    assert f"2 of {left.units} units are done" in text
    assert all(f"remove {stopped.location}/{name}" in text for name in left.files)
    assert text.endswith(f"remove its partial files and {stopped.location}/.svc_dist")


def test_without_its_plan_a_run_has_only_the_shards_that_it_recorded(stopped: Output) -> None:
    finished = [name for name in stopped.storage.names() if name.endswith(".safetensors")]
    stopped.storage.put("model-00099-of-00099.safetensors", b"theirs")
    stopped.journal.storage.put("plan.json", b"{")
    left = remains(stopped)
    assert (left.plan, left.files, left.units) == (None, finished, 0)
    assert "its plan is gone or damaged" in left.text()
    stopped.storage.put(finished[0], b"theirs")
    assert remains(stopped).files == finished[1:]


def test_removing_a_run_empties_its_folder_and_nothing_else(stopped: Output) -> None:
    stopped.storage.put("notes.txt", b"mine")
    before = stopped.storage.names()
    remove_run(stopped)
    assert stopped.journal.is_empty()
    assert stopped.storage.names() == before
