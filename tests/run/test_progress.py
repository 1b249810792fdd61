"""What a run says about its progress."""

from __future__ import annotations

from pathlib import Path

import svc_dist
from svc_dist.run.progress import Progress
from tests.support.checkpoints import recipe_data, write_llamas


def test_the_line_has_one_percentage_and_no_remaining_time_at_either_end(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(recipe_data(write_llamas(tmp_path), max_shard_size="3kB"))
    progress = Progress(plan, [], False)
    assert progress.line().startswith(f"0% done: 0 of {len(plan.units)} units, 0 B of ")
    progress.count([plan.units[0].id])
    assert ", about 0:0" in progress.line()
    progress.count([unit.id for unit in plan.units[1:]])
    assert progress.line().startswith(f"100% done: {len(plan.units)} of {len(plan.units)} units")
    assert "left" not in progress.line()
    assert progress.line().count("%") == 1
