"""The benchmark of a GPU writes rates that forecasts take, and runs through on a pretended device."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.gpu import speed_of
from svc_dist.forecast.rates import Speed

ROOT = Path(__file__).resolve().parents[1]


def test_what_is_measured_makes_a_speed_of_forecasts() -> None:
    found = {
        "products": {"float64": {1024: 1e12, 8192: 4e13}, "float32": {1024: 5e13}},
        "additions": 5e11,
        "eigen": {1024: {"seconds": 0.05, "workspace": 3.0}, 24576: {"error": "too large"}},
        "copies": {"pinned": {"to_device": 5e10, "to_host": 5e10}, "pageable": {"to_device": 5e9, "to_host": 5e9}},
    }
    written = json.dumps(dataclasses.asdict(speed_of(found)))
    speed = msgspec.json.decode(written, type=Speed)
    assert (speed.float64, speed.elementwise, speed.transfer) == (4e13, 5e11, 5e10)
    assert speed.eigen == ((1024, 0.05),)
    assert speed.eigen_seconds(2048) == pytest.approx(0.4)


@pytest.mark.slow
def test_it_runs_through_without_a_gpu_and_claims_no_speed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--json", str(tmp_path / "gpu.json"), "--scratch", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["pretended"]
    assert "speed" not in found
    assert "no figure below is one of a GPU" in done.stdout
    assert {"copies", "products", "eigen", "methods", "troubles", "merges"} <= set(found)
    assert list(tmp_path.iterdir()) == [tmp_path / "gpu.json"]
