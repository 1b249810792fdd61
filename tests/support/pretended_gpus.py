"""Ray workers that believe in GPUs: torch says that one is there, and units that run on it compute on the CPU.

What it is good for: the processes that Ray keeps on GPUs, which it is only told of. What it says nothing about: CUDA.
"""

from __future__ import annotations

from pathlib import Path

#: First on the path of all processes of a cluster. Devices in ``SICK`` fail every unit; ``NOTES`` says what ran where.
SITE = """
import importlib.abc, importlib.util, os, sys, types

SICK, NOTES = {sick!r}, {notes!r}


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

    def on_the_cpu(plan, unit, mapped, sink, attempt, scratch):
        if attempt.device == "cpu":
            return run(plan, unit, mapped, sink, attempt, scratch)
        device = os.environ["CUDA_VISIBLE_DEVICES"]  # which Ray sets after the start of a process
        with open(NOTES, "a") as notes:
            notes.write(f"{{device}} {{os.getpid()}} {{unit.id}}\\n")
        if device in SICK:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\\nCUDA kernel errors might be")
        return run(plan, unit, mapped, sink, attempt._replace(device="cpu"), scratch)

    module._computed = on_the_cpu


sys.meta_path.insert(0, Hook())
"""


def pretend_gpus(folder: Path, sick: tuple[str, ...] = ()) -> tuple[str, Path]:
    """A folder to put first on PYTHONPATH, and a file with a line for each unit that ran on one: device, process,
    unit."""
    folder.mkdir()
    notes = folder / "notes"
    notes.touch()
    (folder / "sitecustomize.py").write_text(SITE.format(sick=sick, notes=str(notes)))
    return str(folder), notes
