"""The files beside the shards: what is planned is what lies in a published model."""

from __future__ import annotations

from pathlib import Path

import svc_dist
from svc_dist.plan.beside import index_text, sidecar_contents
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.checkpoints import recipe_data, write_llamas


def test_sidecars_and_the_index_are_those_of_the_published_model(tmp_path: Path) -> None:
    recipe = recipe_data(write_llamas(tmp_path / "models"), "task_arithmetic", max_shard_size="8kB")
    plan = svc_dist.make_plan(recipe)
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    assert (tmp_path / "out" / plan.index_file).read_text() == index_text(plan)
    contents = {one.name: data for one, data in sidecar_contents(plan, DEFAULT_ACCESS, plan.sidecars)}
    assert contents
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in contents.items())
