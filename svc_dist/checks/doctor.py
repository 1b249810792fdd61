"""Will this merge run here? Storages, scratch space, memory, devices and versions, checked in seconds."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from svc_dist.checkpoint.adapter import open_expert
from svc_dist.errors import ExitCode, StorageError, SvcDistError
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from svc_dist.run.host import available_memory, cores, default_slots, detect_device
from svc_dist.run_folder.journal import RUN_FOLDER
from svc_dist.run_folder.output import Output
from svc_dist.sizes import format_size
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import is_local
from svc_dist.storage.open import open_folder
from svc_dist.storage.retry import Retries
from svc_dist.storage.s3 import S3Objects

_PROBE = 8 << 20  # bytes read and written to see that it works, and how fast
_PACKAGES = ("torch", "ray", "fsspec", "s3fs", "safetensors", "numpy", "scipy")


@dataclass(frozen=True)
class Finding:
    """One thing checked. ``problem``: what is wrong, with its remedy and the exit code a merge would end with."""

    subject: str
    seen: str
    problem: SvcDistError | None = None

    @property
    def exit_code(self) -> int:
        return ExitCode.DONE if self.problem is None else self.problem.exit_code

    def text(self) -> str:
        """One line."""
        if self.problem is None:
            return f"ok     {self.subject}: {self.seen}"
        remedy = f"; {self.problem.hint}" if self.problem.hint else ""
        return f"WRONG  {self.subject}: {self.problem.message}{remedy}".replace("\n", " ")


def examine(recipe: Path, output: str, scratch: str | None, access: Access = DEFAULT_ACCESS) -> Iterator[Finding]:
    """Check everything, as it comes. Raises RecipeError when the recipe itself is wrong."""
    checked = load_recipe(recipe, access=replace(access, timeout=20.0, deadline=10.0))
    sound = True
    for location in checked.locations:
        finding = _finding(f"input {location}", functools.partial(_reads, location, checked.access))
        sound = sound and finding.problem is None
        yield finding
    plan: Plan | None = None
    if sound:
        found: list[Plan] = []

        def planned() -> str:
            made = make_plan(checked, Settings(device=detect_device()))
            found.append(made)
            return f"{len(made.tensors)} tensors, {len(made.units)} units, writes {format_size(made.bytes_out)}"

        yield _finding("plan", planned)
        plan = found[0] if found else None
    target = Output(output, checked.access)
    yield from _writes(target)
    if plan is not None:
        if not all(is_local(model.location) for model in plan.inputs):
            yield _finding("scratch space", lambda: _scratch(plan, scratch))
        if target.is_local:
            yield _finding("room for the output", lambda: _room(plan, target))
        yield _finding("memory", lambda: _memory(plan))
    yield Finding("devices", f"{detect_device()}, {cores()} cores")
    yield Finding("versions", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES))


def _finding(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, check())
    except SvcDistError as error:
        return Finding(subject, "", error)


def _reads(location: str, access: Access) -> str:
    """Headers, then one ranged read."""
    opened = open_expert(location, access)
    if opened.model is not None:
        files = opened.model.files
        seen = f"{len(opened.model.tensors)} tensors, {format_size(opened.model.nbytes)} in {len(files)} files"
    else:
        assert opened.adapter is not None
        files = opened.adapter.files
        seen = f"an adapter of {len(opened.adapter.pairs)} matrices"
    largest = max(files, key=lambda file: file.size)
    length = min(_PROBE, largest.size)
    began = time.perf_counter()
    open_folder(location, access).read(largest.name, largest.size - length, largest.size)
    return f"{seen}; ranged read at {_rate(length, began)} over one connection"


def _writes(output: Output) -> Iterator[Finding]:
    name = f"{RUN_FOLDER}/doctor-{uuid.uuid4().hex}"
    data = bytes(_PROBE)

    def written() -> str:
        began = time.perf_counter()
        output.store.put(name, data)
        rate = _rate(_PROBE, began)
        if output.store.get(name) != data:
            raise StorageError(f"{output.location}: what was written is not what is read back")
        return f"whole files at {rate}"

    folders = [Path(output.location) / RUN_FOLDER, Path(output.location), *Path(output.location).parents]
    made = [folder for folder in folders if output.is_local and not folder.exists()]
    reached = _finding(f"output {output.location}", lambda: "not empty" if output.exists() else "empty")
    yield reached
    if reached.problem is not None:  # and nothing is written: some stores would make a bucket that is not there
        return
    yield _finding("writing", written)
    objects = output.folder
    if isinstance(objects, S3Objects):
        yield _finding("multipart upload", lambda: _multipart(objects, f"{name}-parts"))
        yield _finding("conditional write", lambda: _conditional(objects, f"{name}-new"))
    yield _finding("removing", lambda: _remove(output, name, made))


def _remove(output: Output, name: str, made: list[Path]) -> str:
    for suffix in ("", "-parts", "-new"):
        output.store.delete(name + suffix)
    for folder in made:
        with contextlib.suppress(OSError):  # not there, because nothing could be written
            folder.rmdir()
    return "nothing is left behind"


def _multipart(objects: S3Objects, name: str) -> str:
    upload = objects.create_upload(name, {"svc-dist-plan": "doctor"})
    try:
        began = time.perf_counter()
        etags = [objects.upload_part(name, upload, number, bytearray(5 << 20), Retries()) for number in (1, 2)]
        rate = _rate(10 << 20, began)
        if {part.number for part in objects.parts(name, upload) or []} != {1, 2}:
            raise StorageError("ListParts does not list the parts that were sent", "this store cannot be resumed on")
        objects.uploads([name])  # a permission of its own
        objects.complete_upload(name, upload, etags)
    finally:
        objects.abort_upload(name, upload)
    found = objects.head(name)
    if found is None or found.get("Metadata", {}).get("svc-dist-plan") != "doctor":
        raise StorageError("the finished object lacks its metadata", "this store cannot be written to safely")
    return f"parts at {rate} over one connection"


def _conditional(objects: S3Objects, name: str) -> str:
    first, second = objects.put_new(name, b"first"), objects.put_new(name, b"second")
    if first and not second and objects.get(name) == b"first":
        return "honoured: the lock is exact"
    return "not honoured: the lock rests on its heartbeat"


def _scratch(plan: Plan, scratch: str | None) -> str:
    folder = Path(scratch or tempfile.gettempdir())
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    slots = default_slots(plan.settings)
    needed = sum(sorted((unit.bytes_in for unit in plan.units), reverse=True)[:slots])
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StorageError(
            f"{folder} has {format_size(free)} free, {slots} units at once take up to {format_size(needed)}",
            "name a larger disk with --scratch, or lower --slots",
        )
    return f"{folder} has {format_size(free)} free, up to {format_size(needed)} are needed"


def _room(plan: Plan, output: Output) -> str:
    existing = next(path for path in (Path(output.location), *Path(output.location).parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < plan.bytes_out:
        raise StorageError(
            f"{existing} has {format_size(free)} free, the model takes {format_size(plan.bytes_out)}",
            "free space there",
        )
    return f"{format_size(free)} free, {format_size(plan.bytes_out)} are needed"


def _memory(plan: Plan) -> str:
    largest = max(unit.memory for unit in plan.units)
    available = available_memory()
    if largest > available:
        raise StorageError(
            f"the largest unit takes {format_size(largest)}, {format_size(available)} are available",
            "run it on a machine with more memory",
        )
    return f"{format_size(available)} available, the largest unit takes {format_size(largest)}"


def _rate(length: int, began: float) -> str:
    return f"{length / 1e6 / max(time.perf_counter() - began, 1e-9):.0f} MB/s"
