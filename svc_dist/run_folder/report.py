"""``merge_report.json``: what stays beside a model of how it was made."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from svc_dist import __version__
from svc_dist.errors import DamagedInputError, OutputError, RecipeError
from svc_dist.methods.auto.choice import AutoChoice
from svc_dist.plan.files.sidecars import Sidecar
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.receipt import Receipt
from svc_dist.run_folder.starts.run_id import RUN_ID
from svc_dist.sizes import counted
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import is_inside
from svc_dist.storage.writing.base import ShardFile

REPORT_FILE = "merge_report.json"
LARGEST = 4 << 30  # bytes of a report that are read

#: What the keys mean, in their order.
REPORT_KEYS = {
    "svc_dist": "the version that made it",
    "finished": "when, in UTC",
    "fingerprint": "the plan's: recipe, settings, versions of the methods, identity of every input file",
    "recipe": "the recipe with preset and paths resolved",
    "documents": "the recipes, with names, of the merges that made the models `document://NAME`",
    "output": "the folder inside OUTPUT, of a merge with several results",
    "settings": "what results depend on: precision, threads per unit, kind of device",
    "methods": "methods and calibrations used, and their versions",
    "models": "the base, then the experts: their locations and the identities of their files",
    "bytes_in": "bytes read by all units",
    "bytes_out": "bytes written by all units",
    "unit_seconds": "seconds of all units together, by stage: read, compute, write",
    "hosts": "machines that ran units",
    "devices": "devices that computed",
    "storage_retries": "how many storage requests of units were retried",
    "low_memory_units": "units that ran on the low-memory path, whose last bits may differ",
    "last_start": "the start that completed the merge: run id, host, seconds, units, gigabytes per second, attempts",
    "files": "every file of the result",
    "sidecars": "files beside the weights: from which model and file, how rewritten, size and checksum as written",
    "chat_template": "the chat template in place of the tokenizer's own",
    "shards": "file and size of each shard",
    "dispositions": "the dispositions of tensors: kind, reason, method, parameters, calibration",
    "tensors": "name, dtype, shape, shard and disposition of each tensor; `by_token`: its rows were matched so",
    "not_written": "names that are not in the result, and why",
    "ranges": "the unit, byte range and checksum of every range of every shard",
    "matrices": "one summary per matrix that was decomposed",
    "deltas": "how large the task deltas of each tensor are and how far they overlap",
    "only_where": "where a condition asked: how far each expert is from the base, and whether the tensor was merged",
    "auto": "what `auto` in the recipe chose: the keys, why, by which measurement; figures of a sample for information",
    "evaluations": "of the recipe's `evaluate`: name, task, command, metrics, seconds and time of each command",
}


def reports(
    plan: Plan,
    receipts: dict[str, Receipt],
    files: Sequence[str] = (),
    sidecars: Sequence[WrittenSidecar] = (),
    record: RunRecord | None = None,
) -> list[dict[str, Any]]:
    """The report of each of the plan's results: how it was made, from what, and the checksum of every range."""
    beside = {"files": list(files), "sidecars": [dataclasses.asdict(sidecar) for sidecar in sidecars]}
    return [_report(plan, receipts, number, record) | beside for number in range(len(plan.results))]


def _report(plan: Plan, receipts: dict[str, Receipt], number: int, record: RunRecord | None) -> dict[str, Any]:
    ordered = [receipts[unit.id] for unit in plan.units]
    written = [receipt.ranges[number] for receipt in ordered]
    result = plan.results[number]
    stages = {stage for receipt in ordered for stage in receipt.seconds}
    return {
        "svc_dist": __version__,
        "finished": utc(time.time()),
        "fingerprint": plan.fingerprint,
        "recipe": plan.recipe,
        "documents": list(plan.documents),
        "output": result.path,
        "settings": dataclasses.asdict(plan.settings),
        "methods": plan.methods,
        "models": [dataclasses.asdict(model) for model in plan.models],
        "bytes_in": plan.bytes_in,
        "bytes_out": plan.bytes_out,
        "unit_seconds": {stage: sum(r.seconds.get(stage, 0.0) for r in ordered) for stage in sorted(stages)},
        "hosts": sorted({receipt.host for receipt in ordered}),
        "devices": sorted({receipt.device for receipt in ordered}),
        "storage_retries": sum(receipt.retries for receipt in ordered),
        "low_memory_units": [receipt.unit for receipt in ordered if receipt.low_memory],
        "last_start": None if record is None else _start_of(record),
        "files": [],
        "sidecars": [],
        "chat_template": plan.chat_template,
        "shards": [{"file": plan.shard_file(n), "size": plan.shards[n].size} for n in range(plan.count)],
        "dispositions": [dataclasses.asdict(entry) for entry in result.dispositions],
        "tensors": [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "shard": t.shard, "disposition": t.disposition}
            | ({} if t.maps is None else {"by_token": True})
            | ({} if t.codec is None else {"codec": t.codec})
            for t in plan.tensors
        ],
        "not_written": [list(entry) for entry in plan.not_written],
        "ranges": [
            {"unit": unit.id, "shard": unit.shard, "start": unit.start, "end": unit.end, "checksum": one.checksum}
            for unit, one in zip(plan.units, written, strict=True)
        ],
        "matrices": [summary for one in written for summary in one.matrices],
        "deltas": [overlap for receipt in ordered for overlap in receipt.deltas],
        "only_where": [one | {"merged": one["merged"][number]} for receipt in ordered for one in receipt.differences],
        "auto": None if plan.auto is None else dataclasses.asdict(plan.auto),
        "evaluations": [],
    }


@dataclass(frozen=True)
class ReportedTensor:
    """A tensor of the result. ``shard`` and ``disposition`` are positions in the report's lists; ``by_token``: whether
    its rows were matched by token, so that they need not be as many as the base's; ``codec``: in which it is stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    disposition: int
    by_token: bool = False
    codec: str | None = None


@dataclass(frozen=True)
class ReportedRange:
    """Bytes ``[start, end)`` of a shard, the unit that wrote them and their checksum, ``xxh3_128:HEX``."""

    unit: str
    shard: int
    start: int
    end: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class WrittenSidecar(Sidecar):
    """A sidecar as it was written to a result. ``checksum``: ``xxh3_128:HEX``."""

    size: int
    checksum: str


@dataclass(frozen=True)
class Evaluation:
    """What a command said of the result: named numbers, and how long it took. ``finished``: when, in UTC."""

    name: str
    task: str
    command: str
    metrics: dict[str, float]
    seconds: float
    finished: str


@dataclass(frozen=True)
class PublishedMerge:
    """What identifies a finished merge: the same keys in ``merge_report.json`` and in ``merge_outputs.json``."""

    fingerprint: str
    settings: Settings
    files: tuple[str, ...]

    @classmethod
    def parse(cls, data: bytes | dict[str, Any], origin: str) -> Self:
        """From JSON, or from what it parses to. Raises DamagedInputError naming ``origin``."""
        try:
            return msgspec.json.decode(data, type=cls) if isinstance(data, bytes) else msgspec.convert(data, cls)
        except (ValueError, RecursionError, RecipeError) as error:
            raise DamagedInputError(
                f"{origin} cannot be read: {error}", "it was damaged, or another release of svc-dist wrote it"
            ) from None


@dataclass(frozen=True)
class MergeReport(PublishedMerge):
    """A ``merge_report.json``; ``REPORT_KEYS`` says what the fields mean.

    An inspection has the same form without a result: its ``files``, ``shards``, ``dispositions``, ``tensors``,
    ``not_written`` and ``ranges`` are empty.
    """

    svc_dist: str
    finished: str
    recipe: dict[str, Any]
    methods: dict[str, int]
    models: tuple[PlannedModel, ...]
    bytes_in: int
    unit_seconds: dict[str, float]
    hosts: tuple[str, ...]
    devices: tuple[str, ...]
    matrices: list[dict[str, Any]]
    deltas: list[dict[str, Any]]
    output: str = ""
    bytes_out: int = 0
    storage_retries: int = 0
    low_memory_units: tuple[str, ...] = ()
    last_start: dict[str, Any] | None = None
    sidecars: tuple[WrittenSidecar, ...] = ()
    chat_template: str | None = None
    documents: tuple[dict[str, Any], ...] = ()
    shards: tuple[ShardFile, ...] = ()
    dispositions: tuple[Disposition, ...] = ()
    tensors: tuple[ReportedTensor, ...] = ()
    not_written: tuple[tuple[str, str], ...] = ()
    ranges: tuple[ReportedRange, ...] = ()
    only_where: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    auto: AutoChoice | None = None
    evaluations: tuple[Evaluation, ...] = ()

    def __repr__(self) -> str:
        what = f"a merge, finished {self.finished}" if self.ranges else "an inspection"
        matrices = "1 matrix" if len(self.matrices) == 1 else f"{len(self.matrices):,} matrices"
        return f"<{type(self).__name__} of {what}: {counted(len(self.models) - 1, 'expert')}, {matrices}>"

    def __post_init__(self) -> None:
        """Raise ValueError when the fields contradict one another: the ranges of a shard make up the shard."""
        if not self.models:
            raise ValueError("it names no base model")
        for tensor in self.tensors:
            if not (0 <= tensor.disposition < len(self.dispositions) and 0 <= tensor.shard < len(self.shards)):
                raise ValueError(f"the tensor {tensor.name!r} refers to a disposition or shard that is not listed")
        names = [*(shard.file for shard in self.shards), *(sidecar.name for sidecar in self.sidecars)]
        if outside := next((name for name in names if not is_inside(name)), None):
            raise ValueError(f"the name {outside!r} lies outside the model's folder")
        ends = [0] * len(self.shards)
        for written in sorted(self.ranges, key=lambda written: (written.shard, written.start)):
            if not 0 <= written.shard < len(ends) or written.end < written.start:
                raise ValueError(f"the range of unit {written.unit} lies in a shard that is not listed")
            if written.start != ends[written.shard]:
                raise ValueError(f"the ranges of shard {written.shard} leave a hole at byte {ends[written.shard]}")
            ends[written.shard] = written.end
        for shard, end in zip(self.shards, ends, strict=True):
            if end != shard.size:
                raise ValueError(f"the ranges of {shard.file} end at byte {end} of {shard.size}")


def read_report(location: str, access: Access = DEFAULT_ACCESS) -> MergeReport:
    """The report that a finished merge left. Raises OutputError, DamagedInputError, StorageError."""
    output = Output(location, access, reading=True)
    if REPORT_FILE not in output.storage.names():
        raise OutputError(
            f"{location} has no {REPORT_FILE}: it holds no finished merge of svc-dist",
            "check the path; svc-dist status shows an unfinished merge",
        )
    return MergeReport.parse(output.storage.get_within(REPORT_FILE, LARGEST) or b"", f"{location}/{REPORT_FILE}")


def _start_of(record: RunRecord) -> dict[str, Any]:
    rate = record.bytes_moved / 1e9 / record.seconds if record.seconds > 0 else 0.0
    fields = dataclasses.asdict(record)
    started = utc(fields.pop("ended") - record.seconds)
    return fields | {"started": started, "gigabytes_per_second": rate}


def utc(seconds: float) -> str:
    """A time since the epoch, as reports and logs write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@dataclass(frozen=True)
class RunRecord:
    """This start of a run, for the report. ``seconds``: until publishing; ``bytes_moved``: read and written in them;
    ``attempts``: of the units that took more than one; ``run`` and ``host``: its id, and where the command ran."""

    executor: str
    nodes: tuple[str, ...]
    seconds: float
    bytes_moved: int
    units: int
    units_resumed: int
    retries: int
    attempts: dict[str, int]
    run: str = RUN_ID
    host: str = dataclasses.field(default_factory=socket.gethostname)
    ended: float = dataclasses.field(default_factory=time.time)


for _kind in (PublishedMerge, MergeReport):  # msgspec crashes where several threads decode a type for the first time
    msgspec.json.Decoder(_kind)
