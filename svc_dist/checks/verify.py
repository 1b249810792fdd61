"""Is an output complete, well-formed, finite, unchanged?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svc_dist.checkpoint.checkpoint import INDEX_FILE, Checkpoint, open_checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.errors import SvcDistError, VerificationError
from svc_dist.run_folder.report import REPORT_FILE
from svc_dist.run_folder.shard_check import _compare, read_by_safetensors
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import Folder, is_local, local_path
from svc_dist.storage.open import open_folder
from svc_dist.storage.reading import ByteRange, Source

_CHUNK = 1 << 22


@dataclass
class Verification:
    """What was checked and what is wrong. ``skipped``: checks that could not be made here, and why."""

    checked: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(output: str, deep: bool = False, access: Access = DEFAULT_ACCESS) -> Verification:
    """Check a model: its index against the headers, names and shapes against the base, the architecture by its config.

    ``deep`` re-reads every byte against the recorded checksums and looks for NaN and Inf. Damage is reported, not
    raised; only an output that cannot be reached at all raises.
    """
    result = Verification()
    folder = open_folder(output, access)
    names = folder.names()
    if INDEX_FILE not in names:
        result.problems.append(
            f"{output} has no {INDEX_FILE}: the merge is not complete, or this is not a model of ours"
        )
        if not any(name.endswith(".safetensors") for name in names):
            return result
    try:
        model = open_checkpoint(output, access)
    except SvcDistError as error:
        result.problems.append(str(error))
        return result
    result.checked.append(f"{len(model.files)} shards, {len(model.tensors)} tensors: index and headers agree")
    report = _report(folder, names, result)
    _check_reader(output, model, result)
    _check_total(folder, names, model, result)
    if report is not None:
        _check_report(report, model, result)
        _check_base(report, model, result, access)
    _check_architecture(output, model, result)
    if deep:
        _check_data(Source(model.location, model.files, access), model, report, result)
    return result


def _report(folder: Folder, names: list[str], result: Verification) -> dict[str, Any] | None:
    if REPORT_FILE not in names:
        result.skipped.append(f"recorded shapes, base and checksums: there is no {REPORT_FILE}")
        return None
    try:
        report = dict(json.loads(folder.read(REPORT_FILE)))
        _require_fields(report)
        return report
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        result.problems.append(f"{folder.location}/{REPORT_FILE} cannot be read: {error!r}")
        return None


def _require_fields(report: Mapping[str, Any]) -> None:
    """Raise what a report raises that lacks what is read of it, or whose ranges do not make up its shards."""
    kinds = [str(entry["kind"]) for entry in report["dispositions"]]
    for entry in report["tensors"]:
        str(entry["name"]), str(entry["dtype"]), list(entry["shape"]), kinds[entry["disposition"]]
    str(report["models"][0]["location"])
    [(str(old), str(new)) for old, new in report["models"][0].get("renames", [])]
    for entry in report["not_written"]:
        _name, _reason = entry
    ends = [0] * len(report["shards"])
    for entry in sorted(report["ranges"], key=lambda entry: (entry["shard"], entry["start"])):
        if entry["start"] != ends[entry["shard"]]:
            raise ValueError(f"the ranges of shard {entry['shard']} leave a hole at byte {ends[entry['shard']]}")
        ends[entry["shard"]] = entry["end"]
        entry["checksum"].partition(":"), entry["unit"]
    for shard, end in zip(report["shards"], ends, strict=True):
        if end != shard["size"]:
            raise ValueError(f"the ranges of {shard['file']} end at byte {end} of {shard['size']}")


def _check_reader(output: str, model: Checkpoint, result: Verification) -> None:
    if not is_local(output):
        result.skipped.append("safetensors' own reader: it reads local files only")
        return
    for file in model.files:
        expected = {s.name: (s.dtype, list(s.shape)) for s in model.tensors.values() if s.file == file.name}
        try:
            problem = _compare(read_by_safetensors(Path(local_path(output)) / file.name), expected)
        except VerificationError as error:
            problem = str(error)
        if problem:
            result.problems.append(f"{file.name}: {problem}")
            return
    result.checked.append("the safetensors library reads every shard")


def _check_total(folder: Folder, names: list[str], model: Checkpoint, result: Verification) -> None:
    if INDEX_FILE not in names:
        return
    try:
        total = json.loads(folder.read(INDEX_FILE))["metadata"]["total_size"]
    except (ValueError, KeyError, TypeError) as error:
        result.problems.append(f"{INDEX_FILE} has no total_size: {error!r}")
        return
    if total != model.nbytes:
        result.problems.append(f"{INDEX_FILE} says {total:,} bytes, the tensors have {model.nbytes:,}")


def _check_report(report: Mapping[str, Any], model: Checkpoint, result: Verification) -> None:
    expected = {entry["name"]: (entry["dtype"], list(entry["shape"])) for entry in report["tensors"]}
    problem = _compare({s.name: (s.dtype, list(s.shape)) for s in model.tensors.values()}, expected)
    sizes = {file.name: file.size for file in model.files}
    for shard in report["shards"]:
        if sizes.get(shard["file"]) != shard["size"]:
            problem = f"{shard['file']} has {sizes.get(shard['file'])} bytes, {shard['size']} were written"
    if problem:
        result.problems.append(f"not what was written: {problem}")
    else:
        result.checked.append("names, dtypes, shapes and sizes are those that were written")


def _check_base(report: Mapping[str, Any], model: Checkpoint, result: Verification, access: Access) -> None:
    location = report["models"][0]["location"]
    try:
        base = open_checkpoint(location, access).renamed(report["models"][0].get("renames", []))
    except SvcDistError as error:
        result.skipped.append(f"names and shapes against the base: {error.message}")
        return
    sources = [entry.get("source", 0) for entry in report["dispositions"]]
    other = {name for name, _ in report["not_written"]}
    other |= {entry["name"] for entry in report["tensors"] if sources[entry["disposition"]] != 0}
    expected = {s.name: list(s.shape) for s in base.tensors.values() if s.name not in other}
    found = {s.name: list(s.shape) for s in model.tensors.values() if s.name not in other}
    problem = _compare(found, expected)
    if problem:
        result.problems.append(f"against the base {location}: {problem}")
    else:
        result.checked.append(f"names and shapes are the base's ({location})")


def _check_architecture(output: str, model: Checkpoint, result: Verification) -> None:
    """Every parameter of the architecture that config.json names is there with its shape."""
    what = "parameters of the architecture"
    if model.config is None or not is_local(output):
        result.skipped.append(f"{what}: no config.json" if model.config is None else f"{what}: not a local folder")
        return
    try:
        import transformers
        from accelerate import init_empty_weights
    except ImportError:
        result.skipped.append(f"{what}: accelerate and transformers are not installed (pip install 'svc-dist[check]')")
        return
    folder = local_path(output)
    architecture = (model.config.get("architectures") or ["none named"])[0]
    kind = getattr(transformers, str(architecture), None)
    if kind is None:
        result.skipped.append(f"{what}: transformers does not know {architecture}")
        return
    try:
        # Never the code that a checkpoint brings along, not even after asking.
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with init_empty_weights():
            empty = kind(config)
        wanted = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
        stored = {name: spec.shape for name, spec in model.tensors.items()}
        wrong = [name for name, shape in wanted.items() if stored.get(name) != shape]
        if wrong:
            wrong = _loader_problems(kind, folder)
    except Exception as error:  # whatever a library raises on a config that it does not understand
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        result.skipped.append(f"{what}: transformers cannot build {architecture}: {reason}")
        return
    if wrong:
        result.problems.append(f"{architecture}: " + "; ".join(wrong[:5]) + (" ..." if len(wrong) > 5 else ""))
    else:
        result.checked.append(f"every parameter of {architecture} is there with its shape")


def _loader_problems(kind: Any, folder: str) -> list[str]:
    """What transformers' own loader misses, without reading weights.

    Names stored need not be names in memory: heads are tied, and names changed between versions of the library.
    """
    import transformers

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    _, info = kind.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        device_map="meta",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    missing = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    other = [
        f"{name} has shape {list(found)}, not {list(shape)}" for name, found, shape in sorted(info["mismatched_keys"])
    ]
    return missing + other


def _check_data(source: Source, model: Checkpoint, report: Mapping[str, Any] | None, result: Verification) -> None:
    if report is not None:
        files = [shard["file"] for shard in report["shards"]]
        sizes = {file.name: file.size for file in model.files}
        whole = {n for n, shard in enumerate(report["shards"]) if sizes.get(shard["file"]) == shard["size"]}
        entries = [entry for entry in report["ranges"] if entry["shard"] in whole]
        wrong = _over(entries, lambda entry: _checksum_problem(source, files[entry["shard"]], entry))
        result.problems += wrong
        if not wrong:
            result.checked.append(f"{len(entries)} ranges have their recorded checksums")
    copied = set()
    if report is not None:
        kinds = [entry["kind"] for entry in report["dispositions"]]
        copied = {entry["name"] for entry in report["tensors"] if kinds[entry["disposition"]] == "copied"}
    weights = [spec for spec in model.tensors.values() if spec.dtype in FLOAT_DTYPES]
    wrong = _over(weights, lambda spec: _finite_problem(source, spec, spec.name in copied))
    result.problems += wrong
    if not wrong:
        result.checked.append("no NaN and no Inf")


def _over(items: list[Any], check: Callable[[Any], str | None]) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        return [problem for problem in pool.map(check, items) if problem]


def _checksum_problem(source: Source, file: str, entry: Mapping[str, Any]) -> str | None:
    import xxhash

    kind, _, recorded = entry["checksum"].partition(":")
    if kind != "xxh3_128":
        return f"{file}: unknown checksum {kind}"
    digest = xxhash.xxh3_128()
    wanted = ByteRange(file, entry["start"], entry["end"])
    with source.map([wanted]) as mapped:
        view = mapped.view(wanted)
        for start in range(0, view.nbytes, _CHUNK):
            digest.update(view[start : start + _CHUNK])
    if digest.hexdigest() == recorded:
        return None
    return f"{file}: bytes {entry['start']:,} to {entry['end']:,} (unit {entry['unit']}) are not those written"


def _finite_problem(source: Source, spec: Any, copied: bool) -> str | None:
    from svc_dist.checkpoint.tensor_view import tensor_view

    wanted = ByteRange(spec.file, spec.start, spec.end)
    if spec.nbytes == 0:
        return None
    with source.map([wanted]) as mapped:
        values = tensor_view(mapped.view(wanted), spec.dtype)
        for start in range(0, values.numel(), _CHUNK):
            part = values[start : start + _CHUNK]
            bad = part.isnan() if copied else ~part.isfinite()
            if bool(bad.any()):
                element = start + int(bad.nonzero()[0])
                return f"{spec.file}: tensor {spec.name!r} holds {float(values[element])} at element {element:,}"
    return None
