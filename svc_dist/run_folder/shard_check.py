"""Finished shards held against the plan that they were written by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svc_dist.errors import VerificationError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.output import Output


def check_shards(plan: Plan, output: Output) -> None:
    """Hold every finished shard against the plan: on a disk by safetensors' own reader, else header bytes and size.

    Raises VerificationError.
    """
    for number, shard in enumerate(plan.shards):
        if output.storage.path is None:
            header = plan.header(number)
            file = output.storage.stat(shard.file)
            if file is None or file.size != shard.size or output.storage.read(shard.file, 0, len(header)) != header:
                where = output.storage.url(shard.file)
                raise VerificationError(f"{where}: not as it was planned", "start over with --restart")
            continue
        path = output.storage.path / shard.file
        expected = {tensor.name: (tensor.dtype, list(tensor.shape)) for tensor in plan.shard_tensors[number]}
        problem = _compare(read_by_safetensors(path), expected)
        if problem:
            raise VerificationError(f"{path}: {problem}", "start over with --restart")


def read_by_safetensors(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of each tensor in a shard as the safetensors library sees it. Raises VerificationError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), list(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise VerificationError(f"{path}: the safetensors library cannot read it: {error}") from None


def _compare(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    other = [name for name in expected if name in found and found[name] != expected[name]]
    if missing:
        return f"{len(missing)} tensors are missing ({missing[0]}, ...)"
    if extra:
        return f"{len(extra)} tensors are too many ({extra[0]}, ...)"
    if other:
        return f"{other[0]} is {found[other[0]]}, not {expected[other[0]]}"
    return None
