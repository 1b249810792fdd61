"""A worker's memory is bounded by its unit: it grows neither with the experts nor beyond the plan's figure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import command, environment

SIZES = {"layers": 1, "hidden": 768, "intermediate": 2048, "vocabulary": 8000}

#: Does every unit of a plan one after another; prints the planned and the measured peak of anonymous bytes of each.
MEASURE = """
import json, sys, threading, time
from pathlib import Path
import svc_dist
from svc_dist.run.process import set_up_worker
from svc_dist.run.unit import run_unit
from svc_dist.storage.reading import Source
from svc_dist.storage.writing.local import LocalSink

def anonymous():
    fields = dict(l.split(":", 1) for l in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024

recipe, output = sys.argv[1:]
plan = svc_dist.make_plan(recipe)
set_up_worker(plan.settings)
sink = LocalSink(Path(output), Path(output) / ".svc_dist" / "partial")
sources = [Source(model.location, model.files) for model in plan.inputs]
sink.prepare(plan.shards)
run_unit(plan, min(plan.units, key=lambda unit: unit.memory), sources, sink)  # loads and warms the libraries
peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.001)
threading.Thread(target=watch, daemon=True).start()
found = []
idle = anonymous()  # what earlier units leave behind counts: it is this worker's memory too
for unit in sorted(plan.units, key=lambda unit: unit.memory):
    peak = anonymous()
    run_unit(plan, unit, sources, sink)
    found.append((unit.memory, peak - idle))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("models"), experts=8, **SIZES)


def peak_anonymous(recipe: Path, output: Path, home: Path) -> float:
    """Peak anonymous memory of a whole merge command, in MiB."""
    process = subprocess.Popen(
        command("merge", recipe, output, "--slots", "1"), env=environment(home), stderr=subprocess.DEVNULL
    )
    status = Path(f"/proc/{process.pid}/status")
    peak = 0
    while process.poll() is None:
        line = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon")), "RssAnon: 0 kB")
        peak = max(peak, int(line.split()[1]))
        time.sleep(0.0005)
    assert process.returncode == 0
    return peak / 1024


@pytest.mark.parametrize("calibrate", [pytest.param("none", marks=pytest.mark.slow), "svc"])
def test_memory_does_not_grow_with_the_number_of_experts(models: list[Path], tmp_path: Path, calibrate: str) -> None:
    def peak(experts: int, number: int) -> float:
        recipe = write_recipe(tmp_path / f"{experts}.yaml", models[: experts + 1], calibrate=calibrate)
        return peak_anonymous(recipe, tmp_path / f"out{experts}-{number}", tmp_path / "home")

    few = min(peak(2, number) for number in range(2))
    many: list[float] = []
    while len(many) < 4 and (not many or min(many) >= 1.05 * few):  # what the system adds differs from run to run
        many.append(peak(8, len(many)))
    assert min(many) < 1.05 * few, (few, many)


@pytest.mark.parametrize("calibrate", ["none", "svc"])
def test_units_stay_within_the_plans_memory_figure(models: list[Path], tmp_path: Path, calibrate: str) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", models[:4], calibrate=calibrate)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(recipe), str(tmp_path / "out")],
        env=environment(tmp_path / "home"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    for planned, measured in json.loads(done.stdout):
        assert measured < 1.1 * planned, f"planned {planned:,}, took {measured:,}"
    planned, measured = json.loads(done.stdout)[-1]
    assert measured > 0.3 * planned or calibrate == "none", f"planned {planned:,}, took only {measured:,}"
