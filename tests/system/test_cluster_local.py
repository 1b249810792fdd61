"""cluster/local.sh: two Ray nodes on one machine, a merge on them by address, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import svc_dist
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import environment, shard_hashes, short_home

SCRIPT = Path(__file__).parents[2] / "cluster" / "local.sh"


def test_a_merge_on_two_nodes_gives_the_same_bytes(tmp_path: Path) -> None:
    models = write_llamas(tmp_path / "models", experts=2, layers=4, hidden=64, intermediate=128, vocabulary=500)
    recipe = write_recipe(tmp_path / "recipe.yaml", models, calibrate="svc", max_shard_size="60KB")
    svc_dist.merge(recipe, tmp_path / "inline")
    with short_home() as home:
        done = subprocess.run(
            [str(SCRIPT), str(recipe), str(tmp_path / "cluster"), "--log-format", "json"],
            env=environment(home) | {"PYTHON": sys.executable, "TMPDIR": str(home)},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not list(home.glob("svc*")), "the cluster's state is left behind"
        still = subprocess.run(["pgrep", "-f", f"{home}/svc"], capture_output=True, text=True, check=False).stdout
        assert not still, "processes of the cluster are left behind"
    assert '"executor": "ray"' in done.stderr
    assert shard_hashes(tmp_path / "cluster") == shard_hashes(tmp_path / "inline")


def test_it_ends_with_the_merges_exit_code(tmp_path: Path) -> None:
    with short_home() as home:
        done = subprocess.run(
            [str(SCRIPT), str(tmp_path / "no.yaml"), str(tmp_path / "out")],
            env=environment(home) | {"PYTHON": sys.executable, "TMPDIR": str(home)},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    assert done.returncode == 2
    assert "cannot read the recipe" in done.stderr
