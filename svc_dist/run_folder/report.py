"""``merge_report.json``: what stays beside a model of how it was made."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import Any

from svc_dist import __version__
from svc_dist.errors import DamagedInputError, OutputError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.receipt import Receipt
from svc_dist.storage.access import DEFAULT_ACCESS, Access

REPORT_FILE = "merge_report.json"

#: What the keys mean, in their order.
REPORT_KEYS = {
    "svc_dist": "the version that made it",
    "finished": "when, in UTC",
    "fingerprint": "the plan's: recipe, settings, versions of the methods, identity of every input file",
    "recipe": "the recipe with preset and paths resolved",
    "output": "the folder inside OUTPUT, of a merge with several results",
    "settings": "what results depend on: precision, threads per unit, kind of device",
    "methods": "methods and calibrations used, and their versions",
    "models": "the base, then the experts: where, and who their files were",
    "bytes_in": "bytes read by all units",
    "bytes_out": "bytes written by all units",
    "unit_seconds": "seconds of all units together, by stage: read, compute, write",
    "hosts": "machines that did units",
    "devices": "devices that computed",
    "storage_retries": "requests of units to storages that had to be repeated",
    "low_memory_units": "units done on the path that takes least memory, whose last bits may differ",
    "last_start": "of the start that ended it: seconds, units done, gigabytes per second, retries, attempts of units",
    "files": "every file of the result",
    "shards": "file and size of each shard",
    "dispositions": "what can become of a tensor here: kind, reason, method, parameters, calibration",
    "tensors": "name, dtype, shape, shard, and which disposition",
    "not_written": "names that are not in the result, and why",
    "ranges": "the unit, place and checksum of every range of every shard",
    "matrices": "one summary per matrix that was decomposed",
    "deltas": "how large the task deltas of each tensor are and how far they overlap",
}


def report_of(
    plan: Plan, receipts: dict[str, Receipt], files: list[str], number: int = 0, record: RunRecord | None = None
) -> dict[str, Any]:
    """What stays beside the model: how it was made, from what, and the checksum of every range.

    ``number``: which of the plan's results it is about.
    """
    ordered = [receipts[unit.id] for unit in plan.units]
    written = [receipt.written(number) for receipt in ordered]
    result = plan.results[number]
    stages = {stage for receipt in ordered for stage in receipt.seconds}
    return {
        "svc_dist": __version__,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fingerprint": plan.fingerprint,
        "recipe": plan.recipe,
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
        "files": files,
        "shards": [{"file": plan.shard_file(n), "size": plan.shards[n].size} for n in range(plan.count)],
        "dispositions": [dataclasses.asdict(entry) for entry in result.dispositions],
        "tensors": [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "shard": t.shard, "disposition": t.disposition}
            for t in plan.tensors
        ],
        "not_written": [list(entry) for entry in plan.not_written],
        "ranges": [
            {"unit": unit.id, "shard": unit.shard, "start": unit.start, "end": unit.end, "checksum": one.checksum}
            for unit, one in zip(plan.units, written, strict=True)
        ],
        "matrices": [summary for one in written for summary in one.matrices],
        "deltas": [overlap for receipt in ordered for overlap in receipt.deltas],
    }


def read_report(location: str, access: Access = DEFAULT_ACCESS) -> dict[str, Any]:
    """The report that a finished merge left. Raises OutputError, DamagedInputError, StorageError."""
    output = Output(location, access)
    if REPORT_FILE not in output.names():
        raise OutputError(f"{location} has no {REPORT_FILE}: no finished merge of svc-dist is there", "check the path")
    try:
        report = json.loads(output.folder.read(REPORT_FILE))
        report["models"][0]["location"], report["recipe"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedInputError(f"{location}/{REPORT_FILE} cannot be read: {error!r}") from None
    return dict(report)


def _start_of(record: RunRecord) -> dict[str, Any]:
    rate = record.bytes_moved / 1e9 / record.seconds if record.seconds > 0 else 0.0
    return dataclasses.asdict(record) | {"gigabytes_per_second": rate}


@dataclass(frozen=True)
class RunRecord:
    """This start of a run, for the report. ``seconds``: until publishing; ``bytes_moved``: read and written in them;
    ``attempts``: of the units that took more than one."""

    executor: str
    nodes: tuple[str, ...]
    seconds: float
    bytes_moved: int
    units: int
    units_resumed: int
    retries: int
    attempts: dict[str, int]
