"""Checks in seconds whether a merge can run here: storages, disk space, memory, devices and versions."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from svc_dist.checkpoint.adapters.adapter import OpenedModel, open_expert
from svc_dist.checks.examination import Finding
from svc_dist.checks.room import free_space, largest_unit, memory_here, scratch_bytes, use_scratch
from svc_dist.errors import ResourceError, StorageError, SvcDistError
from svc_dist.plan.documents import plan_documents
from svc_dist.plan.hub_models import located
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import SettingsRequest
from svc_dist.recipe.documents import ResolvedDocument, title
from svc_dist.recipe.load import RecipeSource, load_documents
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run.host import cores, default_slots, detect_device, settings_here
from svc_dist.run.hub.allowed import look_ahead
from svc_dist.run.hub.staged import NO_STAGING, Staging, place_of, require_hub, staging_of
from svc_dist.run_folder.documents.places import placed
from svc_dist.run_folder.documents.records import settings_of_run
from svc_dist.run_folder.output import Output
from svc_dist.sizes import counted, format_size
from svc_dist.storage.access import DEFAULT_ACCESS, DOCUMENT, Access
from svc_dist.storage.base import IN_PARALLEL, MultipartStorage, Storage
from svc_dist.storage.hub.branch import SCHEME
from svc_dist.storage.open import open_storage
from svc_dist.storage.reading import can_map
from svc_dist.storage.retry import Retries
from svc_dist.storage.writing.probe import has_kernel_locks, require_writes_anywhere

_SAMPLE = 8 << 20  # bytes that are read and written to check that it works, and how fast
_PACKAGES = ("torch", "ray", "fsspec", "botocore", "safetensors", "numpy", "scipy")


def examine(
    recipe: RecipeSource,
    output: str,
    settings: SettingsRequest,
    *,
    slots: int | None = None,
    scratch: str | None = None,
    max_shard_size: str | int | None = None,
    changes: Mapping[str, Any] | None = None,
    staging: Staging = NO_STAGING,
    access: Access = DEFAULT_ACCESS,
) -> Iterator[Finding]:
    """Check what a merge with these options needs. Raises RecipeError when the recipe is wrong.

    ``changes``: as in ``load_documents``.
    """
    place = place_of(output) if output.startswith(SCHEME) else None
    if place is None:
        require_hub([output], staging)
    else:
        output = staging_of(staging.folder, output)
    access = replace(access, timeout=20.0, deadline=10.0)
    load = functools.partial(load_documents, recipe, access=access, max_shard_size=max_shard_size, changes=changes)
    documents, output = placed(load, output)
    documents = tuple(replace(document, recipe=located(document.recipe)) for document in documents)
    target = Output(output, documents[-1].recipe.access)
    inputs, reached = _reached(documents, target)
    yield from inputs
    plans: list[Plan] = []
    if all(finding.problem is None for finding in inputs):
        recorded = None
        with contextlib.suppress(SvcDistError):
            recorded = settings_of_run(target) if reached.problem is None else None
        try:
            plans = plan_documents(documents, settings_here(settings, recorded))
        except SvcDistError as error:
            yield Finding("plan", "", error)
    for plan in plans:
        size, device = format_size(plan.bytes_out), plan.settings.device
        work = f"{counted(len(plan.tensors), 'tensor')}, {counted(len(plan.units), 'unit')}"
        yield Finding(
            "plan" if len(plans) == 1 else f"plan of {title(plan.recipe.get('name'))}", f"{work} on {device}, {size}"
        )
    yield reached
    if reached.problem is None:  # else no write is tried: some stores would create a missing bucket
        yield from _writes(target)
    if place is not None:
        check = functools.partial(look_ahead, place, target, staging.public, documents)
        yield _finding(f"upload to {place.location}", check)
    if plans:
        remote = target.storage.path is None
        if use_scratch(plans, access, remote):
            yield _finding("scratch space", lambda: _scratch(plans, scratch, slots))
        if target.storage.path is not None:
            needed = sum(plan.bytes_out for plan in plans)
            user = "the model needs" if len(plans) == 1 else "all models need"
            space = functools.partial(_space, target.storage.path, needed, user)
            yield _finding("space for the output", lambda: space("free space there, or name another OUTPUT"))
        yield _finding("memory", lambda: _memory(plans))
    yield Finding("devices", f"{detect_device()}, {cores()} cores")
    yield Finding("versions", ", ".join(_version(name) for name in _PACKAGES))


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:  # an extra
        return f"{package} not installed"


def _finding(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, check())
    except SvcDistError as error:
        return Finding(subject, "", error)


def _reached(documents: Sequence[ResolvedDocument], target: Output) -> tuple[list[Finding], Finding]:
    """The inputs, and whether the output can be read. All are asked in parallel: a wrong address is waited for once."""
    recipes: dict[str, ResolvedRecipe] = {}
    for document in documents:
        for location in document.recipe.locations:
            recipes.setdefault(location, document.recipe)
    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        exists = pool.submit(target.exists)
        opened = {
            location: pool.submit(open_expert, location, recipe.access, recipe.use_of(location))
            for location, recipe in recipes.items()
            if not location.startswith(DOCUMENT)
        }
    found = [
        _finding(f"input {location}", functools.partial(_reads, location, recipes[location].access, headers.result))
        for location, headers in opened.items()
    ]
    return found, _finding(f"output {target.location}", lambda: "not empty" if exists.result() else "empty")


def _reads(location: str, access: Access, headers: Callable[[], OpenedModel]) -> str:
    """Headers, then one ranged read."""
    opened = headers()
    if opened.model is not None:
        files = opened.model.files
        seen = f"{counted(len(opened.model.tensors), 'tensor')}, {format_size(opened.model.nbytes)}"
        seen += f" in {counted(len(files), 'file')}"
    else:
        assert opened.adapter is not None
        files = opened.adapter.files
        seen = f"an adapter of {sum(map(len, opened.adapter.pairs.values()))} matrices"
    largest = max(files, key=lambda file: file.size)
    length = min(_SAMPLE, largest.size)
    began = time.perf_counter()
    storage = open_storage(location, access)
    storage.read(largest.name, largest.size - length, largest.size)
    seen += f"; ranged read at {_rate(length, began)} over one connection"
    if storage.path is not None and not can_map(storage.path / largest.name):
        seen += "; its file system cannot map files: units read them into scratch space"
    return seen


def _writes(output: Output) -> Iterator[Finding]:
    name = f"doctor-{uuid.uuid4().hex}"
    storage = output.journal.storage
    data = bytes(_SAMPLE)

    def written() -> str:
        began = time.perf_counter()
        storage.put(name, data)
        rate = _rate(_SAMPLE, began)
        if storage.get(name) != data:
            raise StorageError(f"{output.location}: the data read back differs from the data written")
        return f"whole files at {rate}"

    made = [folder for folder in output.folders() if not folder.exists()]
    yield _finding("writing", written)
    if storage.path is not None:
        folder = storage.path
        yield _finding("files", functools.partial(_files, folder))
        yield _finding("lock", functools.partial(_lock, folder))
    if isinstance(storage, MultipartStorage):
        yield _finding("multipart upload", functools.partial(_multipart, storage, f"{name}-parts"))
    if storage.conditional_writes:
        yield _finding("conditional write", lambda: _conditional(storage, f"{name}-new"))
    yield _finding("removing", lambda: _remove(output, name, made))


def _remove(output: Output, name: str, made: list[Path]) -> str:
    for suffix in ("", "-parts", "-new"):
        output.journal.storage.delete(name + suffix)
    for folder in made:
        with contextlib.suppress(OSError):  # missing, because nothing could be written
            folder.rmdir()
    return "nothing is left"


def _files(folder: Path) -> str:
    require_writes_anywhere(folder)
    return "files can be written at any position, renamed and made durable"


def _lock(folder: Path) -> str:
    if has_kernel_locks(folder):
        return "the kernel's: exact on this machine"
    return "the file system has no file locks (flock): the lock rests on its heartbeat"


def _multipart(storage: MultipartStorage, name: str) -> str:
    upload = storage.create_upload(name, {"svc-dist-plan": "doctor"})
    try:
        began = time.perf_counter()
        etags = [storage.upload_part(name, upload, number, bytes(5 << 20), Retries()) for number in (1, 2)]
        rate = _rate(10 << 20, began)
        if set(storage.parts(name, upload) or ()) != {1, 2}:
            raise StorageError("ListParts does not list the parts that were sent", "this store cannot be resumed on")
        storage.uploads([name])  # a permission of its own
        storage.complete_upload(name, upload, etags)
    finally:
        storage.abort_upload(name, upload)
    finished = storage.metadata(name)
    if finished is None or finished[1].get("svc-dist-plan") != "doctor":
        raise StorageError("the finished object lacks its metadata", "this store cannot be written to safely")
    return f"parts at {rate} over one connection"


def _conditional(storage: Storage, name: str) -> str:
    first, second = storage.put_new(name, b"first"), storage.put_new(name, b"second")
    if first and not second and storage.get(name) == b"first":
        return "honoured: the lock is exact"
    return "not honoured: the lock rests on its heartbeat"


def _scratch(plans: Sequence[Plan], scratch: str | None, slots: int | None) -> str:
    slots = slots or default_slots(plans[0].settings)
    needed = scratch_bytes(plans, slots)
    return _space(
        Path(scratch or tempfile.gettempdir()), needed, f"{counted(slots, 'unit')} in parallel need up to",
        "name a folder on a larger disk with --scratch, or lower --slots",
    )  # fmt: skip


def _space(folder: Path, needed: int, user: str, hint: str) -> str:
    """Compare the free space of the disk on which a folder is, or will be made, with what ``user`` needs."""
    free = free_space(folder)
    seen = f"{folder} has {format_size(free)} free, {user} {format_size(needed)}"
    if free < needed:
        raise StorageError(seen, hint)
    return seen


def _memory(plans: Sequence[Plan]) -> str:
    """Compare the largest unit with the memory where it computes: of a device, or of the host if it is too large."""
    largest = largest_unit(plans)
    need = format_size(largest)
    device, host = memory_here(plans)
    if device is not None and largest <= device:
        return f"{format_size(device)} for units on the smallest device, the largest unit needs {need}"
    if largest > host:
        on_device = f" and {format_size(device)} on the smallest device" if device is not None else ""
        raise ResourceError(
            f"the largest unit needs {need}, {format_size(host)}{on_device} are available",
            "run the merge on a machine with more memory",
        )
    if device is not None:
        return f"{format_size(device)} on the smallest device; units that need more, up to {need}, compute on the CPU"
    return f"{format_size(host)} available, the largest unit needs {need}"


def _rate(length: int, began: float) -> str:
    return f"{length / 1e6 / max(time.perf_counter() - began, 1e-9):.0f} MB/s"
