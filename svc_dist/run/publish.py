"""Publishing: sidecars, provenance, and last of all the index, whose presence means complete and verified."""

from __future__ import annotations

import dataclasses
import json
import logging

import xxhash

from svc_dist import __version__
from svc_dist.errors import VerificationError
from svc_dist.plan.beside import index_text, sidecar_contents
from svc_dist.plan.model import Plan
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import CARD_FILE, OUTPUTS_FILE, RECIPE_FILE, completed, own_files, result_files
from svc_dist.run_folder.report import REPORT_FILE, RunRecord, WrittenSidecar, reports
from svc_dist.run_folder.unchanged import passed, unchanged_experts

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
            f"{output.location}: {len(missing)} units have no receipt ({missing[0]}, ...)", "start again"
        )
    from svc_dist.run_folder.shard_check import check_shards

    check_shards(plan, output)
    for expert in unchanged_experts(plan, receipts.values()):
        _log.warning(
            f"{expert} equals the base in every sampled entry, so it added nothing: an adapter that was never trained "
            "(all lora_B are zero), or the base's own weights?"
        )
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
    files |= {RECIPE_FILE: _recipe_text(plan).encode(), CARD_FILE: _card(plan).encode()}
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


def _recipe_text(plan: Plan) -> str:
    import yaml

    return yaml.safe_dump_all([*plan.stages, plan.recipe], sort_keys=False, allow_unicode=True)


def _card(plan: Plan) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    method = plan.recipe["merge_method"]
    calibration = plan.recipe.get("calibrate")
    title = method + (f" + {calibration['method']}" if calibration and calibration["method"] != "none" else "")
    library, what = ("transformers", "model") if plan.adapter is None else ("peft", "adapter")
    data = ModelCardData(library_name=library, tags=["merge", "svc-dist", method])
    if plan.adapter is not None and not plan.adapter["base_model_name_or_path"].startswith("/"):
        data.base_model = plan.adapter["base_model_name_or_path"]
    models = "\n".join(f"- `{model.name}`" for model in plan.models[1:])
    text = f"""---
{data.to_yaml()}
---

# Merged {what} ({title})

Made by svc_dist {__version__} from the base `{plan.models[0].name}` and

{models}

with this recipe (precision `{plan.settings.precision}`):

```yaml
{_recipe_text(plan).rstrip()}
```

`{REPORT_FILE}` holds what became of each tensor, the identity of every input file and the checksum of every range;
`svc-dist verify --deep` checks the shards against it.
"""
    return str(ModelCard(text))
