"""Check that a merged model is complete, well-formed, finite and unchanged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svc_dist.checkpoint.adapters.adapter import Adapter
from svc_dist.checkpoint.checkpoint import Checkpoint, model_files, open_checkpoint
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.checkpoint.weight_files import ADAPTER, INDEX_FILE, is_index, stored_name
from svc_dist.checks import architecture
from svc_dist.checks.written.adapter_files import base_problem, open_written
from svc_dist.checks.written.data import checksum_problems, value_problems
from svc_dist.checks.written.tied_tensors import stored_apart, tied_problems
from svc_dist.checks.written.token_rows import token_rows
from svc_dist.errors import DamagedInputError, SvcDistError, VerificationError, is_installed, printable
from svc_dist.plan.tensors.layers import view_of
from svc_dist.run_folder.published import result_folders
from svc_dist.run_folder.report import REPORT_FILE, MergeReport, ReportedTensor, read_report
from svc_dist.run_folder.series.pointer import resolved
from svc_dist.run_folder.shard_check import difference, read_by_safetensors
from svc_dist.sizes import counted
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import Storage
from svc_dist.storage.hub.locate import locate_here
from svc_dist.storage.open import open_storage
from svc_dist.storage.reading import Source, can_map


@dataclass
class Verification:
    """What was checked and what is wrong. ``skipped``: checks that are not possible here, and why. ``unfinished``:
    whether what is wrong is that a folder holds no finished merge."""

    checked: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unfinished: bool = False

    def __repr__(self) -> str:
        wrong = f"{counted(len(self.problems), 'problem')}: {self.problems[0]}" if self.problems else "ok"
        return f"<Verification: {wrong}; {len(self.checked)} checked, {len(self.skipped)} skipped>"

    @property
    def ok(self) -> bool:
        return not self.problems

    def data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "state": "ok" if self.ok else "wrong",
            "problems": self.problems,
            "skipped": self.skipped,
            "checked": self.checked,
        }

    def include(self, name: str, other: Verification) -> None:
        """Add what was checked of one of several results, by its name."""
        self.checked += [f"{name}: {line}" for line in other.checked]
        self.skipped += [f"{name}: {line}" for line in other.skipped]
        self.problems += [f"{name}: {line}" for line in other.problems]
        self.unfinished |= other.unfinished

    def add(self, passed: str, *problems: str | None) -> None:
        """Add the problems of a check, or ``passed`` where it has found none."""
        self.problems += filter(None, problems)
        if not any(problems):
            self.checked.append(passed)


def verify(output: str, deep: bool = False, access: Access = DEFAULT_ACCESS) -> Verification:
    """Check a model's index against its headers, and its names and shapes against the base and the architecture.

    ``deep`` reads every byte, compares it with the recorded checksums and looks for NaN and Inf. Of a merge with
    several results each is checked. Damage is reported in the result; raises StorageError when the output cannot be
    reached.
    """
    output = locate_here(resolved(output, access), access)
    if not (folders := result_folders(output, access)):
        return _verify(output, deep, access)
    every = Verification()
    for name in folders:
        every.include(name, _verify(f"{output.rstrip('/')}/{name}", deep, access))
    return every


def _verify(output: str, deep: bool, access: Access) -> Verification:
    """Check one model."""
    result = Verification()
    folder = open_storage(output, access)
    names = folder.names()
    is_adapter = ADAPTER.index in names and not model_files(names)
    if not is_adapter and not any(map(is_index, names)):
        result.problems.append(f"{output} has no {INDEX_FILE}: the merge is not complete, or not made by svc_dist")
        result.unfinished = True
        if not any(name.endswith(".safetensors") for name in names):
            return result
    adapter = None
    try:
        if is_adapter:
            adapter, model = open_written(output, access)
        else:
            model = open_checkpoint(output, access)
    except SvcDistError as error:
        result.problems.append(str(error))
        return result
    agree = "index" if adapter is None else "configuration"
    result.checked.append(
        f"{counted(len(model.files), 'shard')}, {counted(len(model.tensors), 'tensor')}: {agree} and headers agree"
    )
    try:
        weights = model if adapter is not None else decoded_checkpoint(model, access, whole=True)
    except DamagedInputError as error:
        result.problems.append(error.message)
        return result
    report = _report(output, names, result, access)
    _check_reader(folder.path, model, result)
    _check_total(folder, names, model, result)
    if report is not None:
        _check_report(report, weights, result)
        _check_sidecars(folder, report, result)
        if adapter is None:
            _check_base(report, weights, result, access)
            if (checked := token_rows(folder, report)) is not None:
                result.add(*checked)
        else:
            _check_adapter(report, adapter, result, access)
    if adapter is None:
        _check_architecture(folder.path, weights, result)
    source = Source(model.location, model.files, access)
    if (problems := tied_problems(model, source, deep)) is not None:
        result.add("tied tensors are equal" + ("" if deep else " in samples"), *problems)
    if deep:
        if report is not None:
            count, problems_found = checksum_problems(source, model, report)
            result.add(f"{counted(count, 'range')} with the recorded checksum", *problems_found)
        result.add("no NaN and no Inf", *value_problems(source, weights, report))
    return result


def _report(output: str, names: list[str], result: Verification, access: Access) -> MergeReport | None:
    if REPORT_FILE not in names:
        result.skipped.append(f"recorded shapes, base and checksums: there is no {REPORT_FILE}")
        return None
    try:
        return read_report(output, access)
    except DamagedInputError as error:
        result.problems.append(error.message)
        return None


def _check_reader(folder: Path | None, model: Checkpoint, result: Verification) -> None:
    if folder is None:
        result.skipped.append("the safetensors library: it reads local files only")
        return
    if not all(can_map(folder / file.name) for file in model.files):
        result.skipped.append("the safetensors library: this file system cannot map files")
        return
    problem = None
    for file in model.files:
        specs = [spec for spec in model.tensors.values() if spec.file == file.name]
        expected = {stored_name(spec.name, spec.file): (spec.dtype, list(spec.shape)) for spec in specs}
        try:
            problem = difference(read_by_safetensors(folder / file.name), expected)
        except VerificationError as error:
            problem = str(error)
        if problem:
            problem = f"{file.name}: {problem}"
            break
    result.add("the safetensors library reads every shard", problem)


def _check_total(folder: Storage, names: list[str], model: Checkpoint, result: Verification) -> None:
    index = next(filter(is_index, sorted(names, key=lambda name: name != INDEX_FILE)), None)
    if index is None:
        return
    try:
        total = json.loads(folder.read(index))["metadata"]["total_size"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        result.problems.append(f"{index} has no total_size: {error!r}")
        return
    specs = [spec for spec in model.tensors.values() if stored_name(spec.name, spec.file) == spec.name]
    nbytes = sum(spec.nbytes for spec in specs)
    if total != nbytes:
        says = f"{total:,}" if type(total) is int else repr(total)
        result.problems.append(f"{index} says {says} bytes, the tensors have {nbytes:,}")


def _check_report(report: MergeReport, model: Checkpoint, result: Verification) -> None:
    found, expected = ({one.name: _stored(one) for one in each} for each in (model.tensors.values(), report.tensors))
    problem = difference(found, expected)
    sizes = {file.name: file.size for file in model.files}
    for shard in report.shards:
        if sizes.get(shard.file) != shard.size:
            problem = f"{shard.file} has {sizes.get(shard.file)} bytes, {shard.size} were written"
    problem = problem and f"not what was written: {problem}"
    result.add("names, dtypes, shapes and sizes are those that were written", problem)


def _stored(tensor: TensorSpec | ReportedTensor) -> str:
    """A tensor's dtype and shape, and what its codes lie in."""
    parts = () if tensor.codec is None else codec_of(tensor.codec).parts
    stored = ", ".join(f"{part.suffix} {part.dtype} {[*part.shape]}" for part in parts)
    return f"{tensor.dtype} {[*tensor.shape]}" + (f" in {stored}" if stored else "")


def _check_sidecars(folder: Storage, report: MergeReport, result: Verification) -> None:
    """Check that the sidecars are those that were written; of another JSON file, also that it is valid."""
    import xxhash

    problems = []
    for sidecar in report.sidecars:
        data = folder.get(sidecar.name)
        if data is None:
            problems.append(f"{sidecar.name} is missing")
        elif sidecar.checksum != f"xxh3_128:{xxhash.xxh3_128(data).hexdigest()}":
            problems.append(f"{sidecar.name} is not the file that was written ({sidecar.size:,} bytes)")
            if sidecar.name.endswith(".json"):
                try:
                    json.loads(data)
                except (ValueError, RecursionError) as error:
                    problems.append(f"{sidecar.name} is not valid JSON: {error}")
    if report.sidecars:
        result.add(f"{counted(len(report.sidecars), 'sidecar')} with the recorded checksum", *problems)


def _check_base(report: MergeReport, model: Checkpoint, result: Verification, access: Access) -> None:
    location = report.models[0].location
    try:
        base = decoded_checkpoint(open_checkpoint(location, access), access, whole=True)
        base = base.renamed(report.models[0].renames)
    except SvcDistError as error:
        result.skipped.append(f"names and shapes against the base: {error.message}")
        return
    other = {name for name, _ in report.not_written} | stored_apart(model.tensors, base.tensors)
    other |= {one.name for one in report.tensors if one.by_token or report.dispositions[one.disposition].source != 0}
    stored, expected = (
        {s.name: list(s.shape) for s in checkpoint.tensors.values() if s.name not in other}
        for checkpoint in (model, view_of(base, report.models[0].layers))
    )
    problem = difference(stored, expected)
    result.add(f"names and shapes are the base's ({location})", problem and f"against the base {location}: {problem}")


def _check_adapter(report: MergeReport, adapter: Adapter, result: Verification, access: Access) -> None:
    base = report.models[0]
    try:
        problem = base_problem(adapter, base, access)
    except SvcDistError as error:
        result.skipped.append(f"the adapter against its base: {error.message}")
        return
    result.add(f"every tensor of the adapter fits the base ({base.location})", problem)


def _check_architecture(path: Path | None, model: Checkpoint, result: Verification) -> None:
    """Check that the model holds every parameter of the architecture that config.json names, with its shape.

    ``model``: with the weights that codes stand for as tensors.
    """
    what = "parameters of the architecture"
    if model.config is None or path is None:
        result.skipped.append(f"{what}: no config.json" if model.config is None else f"{what}: not a local folder")
        return
    named = model.config.get("architectures")
    name = printable(str(named[0])) if isinstance(named, list) and named else "none named"
    if not is_installed("accelerate", "transformers"):  # the first builds the classes of the other without weights
        result.skipped.append(f"{what}: accelerate and transformers are not installed (pip install 'svc-dist[check]')")
        return
    import transformers

    kind = getattr(transformers, name, None)
    if kind is None:
        result.skipped.append(f"{what}: transformers does not know {name}")
        return
    try:
        with architecture.shapes_of(str(path), model) as folder:
            wrong = _architecture_problems(kind, folder, model)
    except Exception as error:  # whatever a library raises on a config that it does not understand
        result.skipped.append(f"{what}: transformers cannot build {name}: {architecture.reason_of(error)}")
        return
    problem = f"{name}: {architecture.summarised(wrong)}" if wrong else None
    result.add(f"every parameter of {name} is there with its shape", problem)


def _architecture_problems(kind: Any, folder: str, model: Checkpoint) -> list[str]:
    from accelerate import init_empty_weights

    with init_empty_weights():
        empty = kind(architecture.read_config(folder))
    stored = {name: spec.shape for name, spec in model.tensors.items()}
    if all(stored.get(name) == tuple(parameter.shape) for name, parameter in empty.named_parameters()):
        return []
    # Stored names can differ from names in memory: heads are tied, and names change between versions of the library.
    # So the loader decides; for the device "meta" it reads no weights.
    return architecture.load(kind, folder, "meta")[1]
