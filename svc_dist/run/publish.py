"""Publishing: sidecars, provenance, and last of all the index, whose presence means complete and verified."""

from __future__ import annotations

import dataclasses
import json
import logging

import xxhash

from svc_dist.errors import VerificationError, warned
from svc_dist.plan.beside import index_text, sidecar_contents
from svc_dist.plan.model import Plan
from svc_dist.run.provenance.card import card, recipe_text
from svc_dist.run_folder.experts import foreign_experts, passed, unchanged_experts
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import CARD_FILE, OUTPUTS_FILE, RECIPE_FILE, completed, own_files, result_files
from svc_dist.run_folder.report import REPORT_FILE, RunRecord, WrittenSidecar, reports
from svc_dist.sizes import counted

_log = logging.getLogger("svc_dist")


def publish(plan: Plan, output: Output, record: RunRecord | None = None) -> None:
    """Complete the merged model, whose shards are all finished. Repeating it after a crash gives the same files.

    ``record``: this start of the run, for the report. Raises VerificationError, ChangedInputError, StorageError.
    """
    done = completed(output)
    if done is not None and done.fingerprint == plan.fingerprint:  # a worker was lost while it removed the run folder
        output.journal.clear()
        return
    receipts = output.journal.receipts(plan)
    missing = [unit.id for unit in plan.units if unit.id not in receipts]
    if missing:
        raise VerificationError(
            f"{output.location}: {counted(len(missing), 'unit')} without a receipt ({missing[0]}, ...)",
            "run the same command again to resume",
        )
    from svc_dist.run_folder.shard_check import check_shards

    check_shards(plan, output)
    for expert in unchanged_experts(plan, receipts.values()):
        _log.warning(
            f"{expert} equals the base in every sampled entry, so it added nothing: an adapter that was never trained "
            "(all lora_B are zero), or the base's own weights?"
        )
    for foreign in foreign_experts(plan.models, (one for receipt in receipts.values() for one in receipt.deltas)):
        text = warned("expert-of-another-base", foreign)
        _log.warning(f"warning: {text}", extra={"fields": {"code": "expert-of-another-base"}})
    measured = [one["merged"] for receipt in receipts.values() for one in receipt.differences]
    for result, merged in zip(plan.results, zip(*measured, strict=True), strict=False):
        _log.info(f"{result.path}: {passed(merged)}" if result.path else passed(merged))
    sidecars = sidecar_contents(plan, output.access, plan.sidecars)
    written = [
        WrittenSidecar(**vars(sidecar), size=len(data), checksum=f"xxh3_128:{xxhash.xxh3_128(data).hexdigest()}")
        for sidecar, data in sidecars
    ]
    files = {sidecar.name: data for sidecar, data in sidecars}
    files.pop(plan.index_file, None)  # an adapter's configuration, which is written last
    own = output.journal.recipe()
    files |= {RECIPE_FILE: recipe_text(plan, own).encode(), CARD_FILE: card(plan, own).encode()}
    for result, report in zip(plan.results, reports(plan, receipts, result_files(plan), written, record), strict=True):
        storage = output.storage.sub(result.path)
        for name, data in files.items():
            storage.put(name, data)
        storage.put(REPORT_FILE, json.dumps(report, indent=1).encode())
        storage.put(plan.index_file, index_text(plan).encode())
    if plan.results[0].path:
        outputs = {
            "fingerprint": plan.fingerprint,
            "settings": dataclasses.asdict(plan.settings),
            "outputs": [result.path for result in plan.results],
            "files": own_files(plan),
        }
        output.storage.put(OUTPUTS_FILE, json.dumps(outputs, indent=1).encode())
    output.journal.clear()
