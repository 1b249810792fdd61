"""A small merge by the command itself, to measure what only a whole merge shows: element-wise work, writing, start."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from svc_dist.checkpoint.header import render_header
from svc_dist.errors import StorageError
from svc_dist.forecast.rates import StorageRates
from svc_dist.methods.registry import METHODS
from svc_dist.plan.settings import Device, SettingsRequest
from svc_dist.recipe.load import recipe_from
from svc_dist.run.options import Options
from svc_dist.run.pipeline.flow import READERS
from svc_dist.run.session import run_merge
from svc_dist.run_folder.report import MergeReport, read_report
from svc_dist.storage.access import Access
from svc_dist.storage.base import Storage
from svc_dist.storage.open import open_storage

_EXPERTS = 3
_BYTES = 128 << 20  # of a model
_LEAST = 8 << 20  # minimal bytes of a unit
_RUNS = 2  # the first one warms up the page cache and compiles byte code
_COLUMNS = 4096
_CHANGE = 0.1  # of an expert, relative to the base


def require_writable(url: str, access: Access) -> None:
    """Raise StorageError unless objects can be written, read and removed under a URL."""
    objects, name = open_storage(url.rstrip("/"), access), f"svc-dist-trial-{uuid.uuid4().hex}"
    objects.put(name, b"svc-dist")
    try:
        objects.read(name)
    finally:
        objects.delete(name)


@dataclass(frozen=True)
class TrialRates:
    """Rates of one unit among those that run in parallel, per second: element-wise operations, bytes written and read.

    ``overhead``: seconds of the command outside its units.
    """

    computed: float
    written: float
    read: float
    overhead: float


class TrialMerge:
    """A base and experts in ``folder``, whose element-wise merge has as many units as there are ``lanes``, or more."""

    def __init__(self, folder: Path, lanes: int, threads: int) -> None:
        self._folder, self._lanes, self._threads = folder, lanes, threads
        units = max(4, lanes)
        rows = max(_LEAST, _BYTES // units) // (2 * _COLUMNS)
        self._shapes = {f"layers.{unit}.weight": (rows, _COLUMNS) for unit in range(units)}
        self._models = ["base", *(f"expert{number}" for number in range(_EXPERTS))]
        self._size = units * rows * _COLUMNS * 2
        self.expert = folder / self._models[-1] / "model.safetensors"
        weights = torch.randn(rows * _COLUMNS, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
        for number, model in enumerate(self._models):
            (folder / model).mkdir()
            with (folder / model / "model.safetensors").open("wb") as file:
                file.write(render_header((name, "BF16", shape) for name, shape in self._shapes.items()))
                for unit in range(units):
                    base = weights.roll(unit)
                    tuned = base + base.roll(number) * _CHANGE if number else base
                    file.write(tuned.view(torch.uint8).numpy().data)

    def merge(self, slots: Sequence[int]) -> list[TrialRates]:
        """Merge by the command, for each number of units in parallel; the run with the least overhead counts."""
        runs = [[self._merge_here(count) for count in slots] for _ in range(_RUNS)]
        return [min(same, key=lambda run: run.overhead) for same in zip(*runs, strict=True)]

    def _merge_here(self, slots: int) -> TrialRates:
        recipe, output = self._folder / "recipe.yaml", self._folder / "merged"
        recipe.write_text(yaml.safe_dump(self._recipe(str(self._folder))))
        flags = ["--slots", str(slots), "--threads-per-unit", str(self._threads), "--executor", "inline"]
        command = [sys.executable, "-m", "svc_dist", "merge", str(recipe), str(output), "--device", "cpu", *flags]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise StorageError(
                f"a small merge in {self._folder} failed: {done.stderr.strip()}", "name another folder with --folder"
            )
        measured = self._measured(read_report(str(output)), seconds, slots)
        shutil.rmtree(output)
        return measured

    def on_storage(self, url: str, access: Access) -> StorageRates:
        """Rates of a storage: the same merge from and to a folder under ``url``, which is removed again."""
        prefix = f"{url.rstrip('/')}/svc-dist-trial-{uuid.uuid4().hex}"
        objects = open_storage(prefix, access)
        together = max(2, self._lanes)
        try:
            for model in self._models:
                objects.put(f"{model}/model.safetensors", (self._folder / model / "model.safetensors").read_bytes())
            one, all_lanes = (self._merge_there(prefix, objects, access, slots) for slots in (1, together))
        finally:
            objects.clear()
        readers = max(READERS, together)  # so many read at once, also with one slot
        read, written = readers * all_lanes.read, together * all_lanes.written
        alone = min(READERS * one.read, read)
        return StorageRates(alone, read, one.written, max(one.written, written))

    def _merge_there(self, prefix: str, objects: Storage, access: Access, slots: int) -> TrialRates:
        output = f"merged{slots}"
        settings = SettingsRequest(threads_per_unit=self._threads, device=Device.CPU)
        options = Options("inline", slots=slots, settings=settings)
        began = time.perf_counter()
        run_merge(recipe_from(self._recipe(prefix), access=access), f"{prefix}/{output}", options)
        return self._measured(read_report(f"{prefix}/{output}", access), time.perf_counter() - began, slots)

    def _recipe(self, location: str) -> dict[str, Any]:
        experts = [{"model": f"{location}/{model}"} for model in self._models[1:]]
        return {"base_model": f"{location}/{self._models[0]}", "models": experts, "merge_method": "task_arithmetic"}

    def _measured(self, report: MergeReport, seconds: float, slots: int) -> TrialRates:
        stages = report.unit_seconds
        work = METHODS["task_arithmetic"].work(self._size // 2, 1, _EXPERTS, "mixed")
        # Lanes compute and hand over; only the first unit's reading and the last one's writing come on top.
        units = len(self._shapes)
        in_lanes = (stages["compute"] + stages["write"]) / min(slots, units)
        overhead = seconds - in_lanes - stages["read"] / units
        read = self._size * len(self._models) / max(stages["read"], 1e-9)
        return TrialRates(work.elementwise / stages["compute"], self._size / stages["write"], read, max(0.0, overhead))
