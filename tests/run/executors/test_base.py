"""An executor is a module and a name: here one of an installed package, used through the command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from svc_dist.errors import ExitCode, RecipeError
from svc_dist.run.executors import find_executor
from svc_dist.run.executors.inline import InlineExecutor
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import run, shard_hashes

#: One unit at a time, in the thread that asks for events.
SERIAL = """
from svc_dist.run.host import available_memory
from svc_dist.run.placement import Node
from svc_dist.run.process import set_up_worker
from svc_dist.run.worker import Worker

class SerialExecutor:
    name = "serial"

    def __init__(self, plan, output, options):
        set_up_worker(plan.settings)
        self.worker = Worker(output.location, plan.fingerprint, options.scratch, output.access, plan)
        self.nodes = {"": Node(1, available_memory())}
        self.waiting = []

    def submit(self, instruction):
        self.waiting.append(instruction)

    def abandon(self, instruction):
        return False

    def wait(self, timeout):
        return [self.worker.execute(self.waiting.pop(0))] if self.waiting else []

    def close(self):
        pass
"""


def test_the_executors_of_this_package_are_listed() -> None:
    assert find_executor("inline").load() is InlineExecutor
    assert find_executor("ray").module == "svc_dist.run.executors.ray"
    with pytest.raises(RecipeError, match="executor is 'inlin', but must be one of auto, inline, ray"):
        find_executor("inlin")


def test_a_package_adds_an_executor_that_the_command_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    metadata = site / "serial-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "serial.py").write_text(SERIAL)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: serial\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[svc_dist.executors]\nserial = serial:SerialExecutor\n")
    models = write_llamas(tmp_path / "models", experts=2, layers=1, hidden=64, intermediate=64, vocabulary=50)
    recipe = write_recipe(tmp_path / "recipe.yaml", models, calibrate="svc")
    run("merge", recipe, tmp_path / "inline", home=tmp_path)
    refused = run("merge", recipe, tmp_path / "out", "--executor", "serial", home=tmp_path, expect=ExitCode.USAGE)
    assert "'serial' is not one of 'auto', 'inline', 'ray'" in " ".join(refused.err.split())
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    run("merge", recipe, tmp_path / "out", "--executor", "serial", home=tmp_path)
    assert shard_hashes(tmp_path / "out") == shard_hashes(tmp_path / "inline")
    assert json.loads((tmp_path / "out" / "merge_report.json").read_text())["last_start"]["executor"] == "serial"
