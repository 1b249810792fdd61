"""Finished shards compared with their plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from svc_dist.checkpoint.weight_files import stored_name
from svc_dist.errors import VerificationError, printable
from svc_dist.plan.model import Plan
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.receipt import Receipt, WrittenRange
from svc_dist.sizes import counted
from svc_dist.storage.reading import can_map
from svc_dist.storage.writing.base import LostRangesError, ShardFile, Sink

_TOGETHER = 4  # ranges that are read in parallel


def check_shards(plan: Plan, output: Output) -> None:
    """Compare every finished shard with the plan: on a disk by safetensors' own reader, else (and where files
    cannot be mapped) header bytes and size.

    Raises VerificationError.
    """
    for number, shard in enumerate(plan.shards):
        if output.storage.path is None or not can_map(output.storage.path / shard.file):
            header = plan.header(number)
            file = output.storage.stat(shard.file)
            if file is None or file.size != shard.size or output.storage.read(shard.file, 0, len(header)) != header:
                where = output.storage.url(shard.file)
                raise VerificationError(f"{where}: differs from the plan", "start over with --restart")
            continue
        path = output.storage.path / shard.file
        name = plan.shard_file(number)
        expected = {stored_name(one.name, name): (one.dtype, list(one.shape)) for one in plan.written(number)}
        problem = difference(read_by_safetensors(path), expected)
        if problem is not None:
            raise VerificationError(f"{path}: {problem}", "start over with --restart")


def require_unaltered(
    plan: Plan, output: Output, sink: Sink, number: int, units: Sequence[str], known: Mapping[str, Receipt]
) -> None:
    """Compare what the ranges of units in a shard hold with the checksums in their receipts (some of them ``known``).

    Drops the receipts of ranges that differ and raises LostRangesError; raises VerificationError where the shard is
    finished, because then another program has changed a file of the output.
    """
    receipts = output.journal.receipts(plan, number, known)
    written = [
        (unit, plan.shards[shard], one)
        for unit in units
        if unit in receipts
        for shard, one in zip(plan.shards_of(number), receipts[unit].ranges, strict=True)
    ]

    def altered(unit: str, shard: ShardFile, one: WrittenRange) -> bool:
        start, end = plan.unit[unit].start, plan.unit[unit].end
        return one.checksum != f"xxh3_128:{sink.digest(shard, start, end, one.tokens)}"

    with ThreadPoolExecutor(_TOGETHER) as pool:
        differing = list(pool.map(lambda pair: altered(*pair), written))
    wrong = [pair for pair, differs in zip(written, differing, strict=True) if differs]
    for _, shard, _ in wrong:
        state = sink.state(shard)
        if state is not None and state.finished:
            raise VerificationError(
                f"{output.storage.url(shard.file)} is not what this run wrote: another program changed it",
                "start over with --restart, which removes it",
            )
    if wrong:
        output.journal.drop([unit for unit, _, _ in wrong])
        raise LostRangesError(
            f"{output.storage.url(wrong[0][1].file)}: {counted(len(wrong), 'range')} that an earlier start wrote "
            "differ from their receipts"
        )


def read_by_safetensors(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of each tensor in a shard as the safetensors library reads it. Raises VerificationError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (view.get_dtype(), list(view.get_shape())) for name, view in slices.items()}
    except (SafetensorError, OSError) as error:
        raise VerificationError(f"{path}: the safetensors library cannot read it: {error}") from None


def difference(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """How the dtypes and shapes of tensors differ from the expected ones; None when they do not."""
    if missing := [name for name in expected if name not in actual]:
        return f"{counted(len(missing), 'missing tensor')} ({printable(missing[0])}, ...)"
    if unexpected := [name for name in actual if name not in expected]:
        return f"{counted(len(unexpected), 'unexpected tensor')} ({printable(unexpected[0])}, ...)"
    differing = (name for name in expected if actual[name] != expected[name])
    return next((f"{printable(name)} is {actual[name]}, not {expected[name]}" for name in differing), None)
