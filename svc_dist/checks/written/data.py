"""Every byte of a written model: the recorded checksums, and weights that are no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import DamagedInputError, printable
from svc_dist.plan.inputs import stored_range
from svc_dist.run_folder.report import MergeReport, ReportedRange
from svc_dist.storage.reading import ByteRange, Source

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 22
Item = TypeVar("Item")


def checksum_problems(source: Source, model: Checkpoint, report: MergeReport) -> tuple[int, list[str]]:
    """How many ranges were compared with their recorded checksums, and those that differ."""
    sizes = {file.name: file.size for file in model.files}
    whole = {number for number, shard in enumerate(report.shards) if sizes.get(shard.file) == shard.size}
    ranges = [written for written in report.ranges if written.shard in whole]
    wrong = _over(ranges, lambda written: _checksum_problem(source, report.shards[written.shard].file, written))
    return len(ranges), wrong


def value_problems(source: Source, model: Checkpoint, report: MergeReport | None) -> list[str]:
    """The weights that hold NaN or Inf. ``model``: with the weights that codes stand for as tensors.

    A copied weight may hold Inf, as in a mask.
    """
    copied = set()
    if report is not None:
        copied = {t.name for t in report.tensors if report.dispositions[t.disposition].kind == "copied"}
    weights = [spec for spec in model.tensors.values() if spec.dtype in FLOAT_DTYPES and spec.nbytes]
    return _over(weights, lambda spec: _value_problem(source, spec, spec.name in copied))


def _over(items: Sequence[Item], check: Callable[[Item], str | None]) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        return [problem for problem in pool.map(check, items) if problem]


def _checksum_problem(source: Source, file: str, written: ReportedRange) -> str | None:
    import xxhash

    kind, _, recorded = written.checksum.partition(":")
    if kind != "xxh3_128":
        return f"{file}: unknown checksum {printable(kind)}"
    digest = xxhash.xxh3_128()
    data = ByteRange(file, written.start, written.end)
    with source.map([data]) as mapped:
        view = mapped.view(data)
        for start in range(0, view.nbytes, _CHUNK):
            digest.update(view[start : start + _CHUNK])
    if digest.hexdigest() == recorded:
        return None
    return f"{file}: bytes {written.start:,} to {written.end:,} (unit {printable(written.unit)}) are not those written"


def _value_problem(source: Source, spec: TensorSpec, copied: bool) -> str | None:
    element = 0
    try:
        for chunk in _values(source, spec):
            bad = chunk.isnan() if copied else ~chunk.isfinite()
            if bool(bad.any()):
                index = int(bad.nonzero()[0])
                return f"{spec.file}: tensor {spec.name!r} holds {float(chunk[index])} at element {element + index:,}"
            element += chunk.numel()
    except DamagedInputError as error:
        return error.message
    return None


def _values(source: Source, spec: TensorSpec) -> Iterator[Tensor]:
    """The entries of a tensor, flat, some at a time."""
    from svc_dist.run.inputs.whole import Block, cuts

    slot = stored_range(0, spec)
    for first, last in cuts([slot], _CHUNK):
        block = Block(slot, first, last, f"{spec.file}: tensor {spec.name!r}")
        with source.map(block.ranges) as mapped:
            yield block.values(mapped)
