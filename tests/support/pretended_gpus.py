"""Ray workers that believe in GPUs: torch says that one is there, and units that run on it compute on the CPU.

What it is good for: the processes that Ray keeps on GPUs, which it is only told of. What it says nothing about: CUDA.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

#: First on the path of all processes of a cluster. ``NOTES`` says what ran where and when.
SITE = """
import importlib.abc, importlib.util, json, os, random, sys, time, types

GPUS, NOTES = {gpus!r}, {notes!r}


class Hook(importlib.abc.MetaPathFinder):
    busy = False

    def find_spec(self, name, path, target=None):
        if Hook.busy or name not in ("torch", "svc_dist.run.unit"):
            return None
        Hook.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            Hook.busy = False
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), after(name, module))
        return spec


def after(name, module):
    if name == "torch":
        cuda = module.cuda
        cuda.is_available, cuda.device_count = lambda: True, lambda: 1
        cuda.get_device_properties = lambda *_: types.SimpleNamespace(total_memory=80 * 10**9)
        cuda.get_device_name = lambda *_: "pretended"
        cuda.set_per_process_memory_fraction = lambda *_: None
        return
    run = module._computed

    def on_the_cpu(plan, unit, mapped, sink, attempt, *more):
        if attempt.device == "cpu":
            return run(plan, unit, mapped, sink, attempt, *more)
        began, device = time.time(), os.environ["CUDA_VISIBLE_DEVICES"]  # which Ray sets after the start of a process
        with open(GPUS) as file:
            gpus = json.load(file)
        time.sleep(random.Random(unit.id).uniform(*gpus["seconds"]) * gpus["slow"].get(device, 1.0))
        try:
            if device in gpus["sick"]:
                raise RuntimeError("CUDA error: uncorrectable ECC error encountered\\nCUDA kernel errors might be")
            return run(plan, unit, mapped, sink, attempt._replace(device="cpu"), *more)
        finally:
            with open(NOTES, "a") as notes:
                notes.write(f"{{device}} {{os.getpid()}} {{unit.id}} {{began}} {{time.time()}}\\n")

    module._computed = on_the_cpu


sys.meta_path.insert(0, Hook())
"""


class Ran(NamedTuple):
    """An attempt at a unit on a device."""

    device: str
    process: str
    unit: str
    began: float
    ended: float


def pretend_gpus(
    folder: Path, sick: Sequence[str] = (), slow: Mapping[str, float] | None = None, seconds: Sequence[float] = (0, 0)
) -> tuple[str, Path]:
    """A folder to put first on PYTHONPATH, and a file for ``ran_on``, which becomes empty. May be called again later.

    Devices in ``sick`` fail every unit. A unit sleeps between the first and the second of ``seconds``, as its name
    decides, and so many times longer on a ``slow`` device.
    """
    folder.mkdir(exist_ok=True)
    notes, gpus = folder / "notes", folder / "gpus.json"
    notes.write_text("")
    gpus.write_text(json.dumps({"sick": list(sick), "slow": dict(slow or {}), "seconds": list(seconds)}))
    (folder / "sitecustomize.py").write_text(SITE.format(gpus=str(gpus), notes=str(notes)))
    return str(folder), notes


def ran_on(notes: Path) -> list[Ran]:
    """The attempts on devices, in the order in which they ended."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    return [Ran(device, process, unit, float(began), float(ended)) for device, process, unit, began, ended in lines]
