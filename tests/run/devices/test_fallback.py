"""Memory that runs out, for real: a unit is done once more on the path of least memory, and its receipt says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from svc_dist.errors import DeviceFailedError, DeviceTooSmallError, UnitsFailedError
from svc_dist.plan.model import Unit
from svc_dist.run.devices import fallback
from svc_dist.run.devices.fallback import Attempt, attempted, attempts
from svc_dist.run_folder.receipt import Receipt
from tests.run.test_schedule import plan_of
from tests.support.checkpoints import llama_config, write_checkpoint, write_recipe

MIB = 2**20
ROWS, COLUMNS = 8192, 1152
ENVIRONMENT = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # or threads that ended leave room of their own

#: Does a plan's units, the largest last, and with so many bytes of anonymous memory more than there are mapped before.
RUN = """
import json, resource, sys
from pathlib import Path
import svc_dist
from svc_dist.errors import SvcDistError
from svc_dist.run.process import set_up_worker
from svc_dist.run.unit import run_unit
from svc_dist.storage.reading import Source
from svc_dist.storage.writing.local import LocalSink

recipe, output, room = sys.argv[1:]
plan = svc_dist.make_plan(recipe)
set_up_worker(plan.settings)
sink = LocalSink(Path(output), Path(output) / ".svc_dist" / "partial")
sources = [Source(model.location, model.files) for model in plan.models]
sink.prepare(plan.shards)
units = sorted(plan.units, key=lambda unit: unit.memory)
for unit in units[:-1]:
    run_unit(plan, unit, sources, sink)  # loads what is needed
if int(room):
    size = next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]
    limit = int(size) * 1024 + int(room)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    receipt = run_unit(plan, units[-1], sources, sink)
    print(json.dumps({"low_memory": receipt.low_memory, "device": receipt.device, "planned": units[-1].memory}))
except SvcDistError as error:
    print(json.dumps({"error": error.message, "code": error.exit_code}))
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SWUDI of one tall matrix of three experts, and of a small one."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    base = {"a.weight": torch.randn(ROWS, COLUMNS, generator=generator), "b.weight": torch.randn(64, 64)}
    models = []
    for index in range(3):
        own = {name: (t + 0.02 * index * torch.randn(t.shape, generator=generator)) for name, t in base.items()}
        models.append(folder / f"model{index}")
        write_checkpoint(models[-1], {name: t.bfloat16() for name, t in own.items()}, config=llama_config())
    return write_recipe(folder / "recipe.yaml", models, "swudi", max_shard_size="1MB")


def run(recipe: Path, output: Path, room: float) -> dict[str, Any]:
    arguments = [sys.executable, "-c", RUN, str(recipe), str(output), str(int(room))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=240, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def merged(output: Path) -> torch.Tensor:
    (shard,) = [path for path in (output / ".svc_dist" / "partial").iterdir() if path.stat().st_size > MIB]
    return load_file(shard)["a.weight"].float()


@pytest.mark.slow
def test_a_unit_that_runs_out_of_memory_is_done_on_the_path_that_takes_less(recipe: Path, tmp_path: Path) -> None:
    usual = run(recipe, tmp_path / "usual", 0)
    assert not usual["low_memory"]
    low = run(recipe, tmp_path / "low", 0.65 * usual["planned"])
    assert low["low_memory"], low
    assert low["device"] == "cpu"
    expected, found = merged(tmp_path / "usual"), merged(tmp_path / "low")
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    assert float((found == expected).float().mean()) > 0.99


def test_a_unit_that_memory_is_too_short_for_in_every_way_fails_by_name(recipe: Path, tmp_path: Path) -> None:
    failed = run(recipe, tmp_path / "out", 16 * MIB)
    assert failed["code"] == 6
    assert "out of memory on the path that takes least" in failed["error"]


def test_the_last_resort_of_a_gpu_is_the_cpu() -> None:
    assert attempts("cuda") == [Attempt("cuda", False), Attempt("cuda", True), Attempt("cpu", True)]
    assert attempts("cuda", low_memory=True) == [Attempt("cuda", True), Attempt("cpu", True)]
    assert attempts("cpu") == [Attempt("cpu", False), Attempt("cpu", True)]
    assert attempts("cuda", has_host=False) == [Attempt("cuda", False), Attempt("cuda", True)]
    assert attempts("cuda", on_host=True) == [Attempt("cpu", True)]


UNIT = Unit("u", 0, 0, 1, (), 0, 0, 0.0, 10**6)
RECEIPT = Receipt("u", "f", (), 0, 0, {}, "host", "cpu")


def on(errors: dict[Attempt, BaseException], ways: Sequence[Attempt] = ()) -> tuple[Receipt, list[Attempt]]:
    """The receipt of a unit for which some attempts raise, and the attempts that were made."""
    made: list[Attempt] = []

    def run(way: Attempt) -> Receipt:
        made.append(way)
        if way in errors:
            raise errors[way]
        return RECEIPT

    return attempted(plan_of((0, 1, 1), device="cuda"), UNIT, ways or attempts("cuda"), run), made


def test_out_of_memory_goes_from_path_to_path() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory")
    assert on({})[1] == attempts("cuda")[:1]
    assert on({Attempt("cuda", False): full})[1] == attempts("cuda")[:2]
    errors: dict[Attempt, BaseException] = dict.fromkeys(attempts("cuda")[:2], full)
    assert on(errors)[1] == attempts("cuda")
    with pytest.raises(UnitsFailedError, match="out of memory on the path that takes least"):
        on(dict.fromkeys(attempts("cuda"), full))


def test_a_process_without_cores_of_its_own_says_that_its_gpu_is_too_small() -> None:
    ways = attempts("cuda", has_host=False)
    with pytest.raises(DeviceTooSmallError, match="does not fit onto its GPU: CUDA out of memory"):
        on(dict.fromkeys(ways, torch.OutOfMemoryError("CUDA out of memory")), ways)


def test_a_machine_with_too_little_memory_is_named_before_the_unit_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "available_memory", lambda: 10)
    with pytest.raises(UnitsFailedError, match=r"on the CPU it takes up to 1\.00 MB, and 10 B of memory is available"):
        on(dict.fromkeys(attempts("cuda")[:2], torch.OutOfMemoryError("CUDA out of memory")))


def test_units_on_the_cpu_take_turns_where_cores_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "cores", lambda: 1)
    plan, running, most = plan_of((0, 1, 1), device="cuda"), [0], [0]

    def run() -> None:
        with fallback.idle_cores(plan, UNIT):
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.05)
            running[0] -= 1

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_what_a_library_cannot_take_goes_to_the_cpu_without_the_same_library_again() -> None:
    refused = RuntimeError("cusolver error: CUSOLVER_STATUS_INVALID_VALUE, when calling `cusolverDnXsyevd`")
    assert on({Attempt("cuda", False): refused})[1] == [Attempt("cuda", False), Attempt("cpu", True)]


def test_a_device_that_failed_is_not_asked_again() -> None:
    with pytest.raises(DeviceFailedError, match="cuda failed: CUDA error: an illegal memory access was encountered"):
        on({Attempt("cuda", False): RuntimeError("CUDA error: an illegal memory access was encountered\nmore")})


def test_an_error_of_the_program_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="must match"):
        on({Attempt("cuda", False): RuntimeError("The size of tensor a (2) must match the size of tensor b (3)")})
