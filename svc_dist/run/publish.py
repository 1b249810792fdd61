"""Publishing: companion files, provenance, and last of all the index, whose presence means complete and verified."""

from __future__ import annotations

import dataclasses
import json

from svc_dist import __version__
from svc_dist.checkpoint.checkpoint import INDEX_FILE
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.tokenizer import CONFIG_FILE, TEMPLATE_FILE, with_template
from svc_dist.errors import VerificationError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import (
    CARD_FILE,
    OUTPUTS_FILE,
    RECIPE_FILE,
    _in_folders,
    _result_files,
    companions,
    completed,
)
from svc_dist.run_folder.report import REPORT_FILE, RunRecord, reports
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage

_MOST = 200 * 2**20  # a companion larger than this is no companion


def publish(plan: Plan, output: Output, record: RunRecord | None = None) -> None:
    """Make the merged model complete. Every shard is finished; doing it again after a crash gives the same files.

    ``record``: the start of the run that got here, for the report.
    """
    done = completed(output)
    if done is not None and done.fingerprint == plan.fingerprint:  # by a worker that was lost while it cleared up
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
    listed = companions(plan, output.access)
    found = {name: _companion(plan, name, model, output.access) for name, model in listed.items()}
    beside = {name: data for name, data in found.items() if data is not None}
    names = _result_files(plan, beside)
    same = beside | {RECIPE_FILE: _recipe_text(plan).encode(), CARD_FILE: _card(plan).encode()}
    index = index_of(plan).encode()
    for result, report in zip(plan.results, reports(plan, receipts, names, record), strict=True):
        store = output.storage.sub(result.path)
        for name, data in same.items():
            store.put(name, data)
        store.put(REPORT_FILE, json.dumps(report, indent=1).encode())
        store.put(INDEX_FILE, index)
    if plan.results[0].path:
        of_all = {
            "fingerprint": plan.fingerprint,
            "settings": dataclasses.asdict(plan.settings),
            "outputs": [result.path for result in plan.results],
            "files": _in_folders(plan, names),
        }
        output.storage.put(OUTPUTS_FILE, json.dumps(of_all, indent=1).encode())
    output.journal.clear()


def index_of(plan: Plan) -> str:
    """The index: which shard holds which tensor."""
    weight_map = {tensor.name: plan.shard_file(tensor.shard) for tensor in plan.tensors}
    return json.dumps({"metadata": {"total_size": plan.tensor_bytes}, "weight_map": weight_map}, indent=2) + "\n"


def _companion(plan: Plan, name: str, model: int, access: Access) -> bytes | None:
    """What a file beside the weights holds; None for one that is gone or too large to be what its name says."""
    template = plan.companions.chat_template
    if name == TEMPLATE_FILE and template is not None:
        return template.encode()
    folder = open_storage(plan.models[model].location, access)
    identity = folder.stat(name)
    if identity is None or identity.size > _MOST:
        return None
    data = folder.read(name)
    if name == CONFIG_FILE and template is not None:
        return with_template(data, template)
    return _config_of(data, plan) if name == "config.json" else data


def _config_of(data: bytes, plan: Plan) -> bytes:
    """The base's config with the dtype that the recipe writes."""
    dtype = plan.recipe.get("out_dtype") or plan.recipe.get("dtype")
    config = json.loads(data)
    if dtype is None or not isinstance(config, dict):
        return data
    sections = [
        config,
        *(value for key, value in config.items() if key.endswith("_config") and isinstance(value, dict)),
    ]
    changed = False
    for section in sections:
        for key in ("dtype", "torch_dtype"):
            if section.get(key) in FLOAT_DTYPES.values():
                section[key] = dtype
                changed = True
    if not changed:
        config["dtype"] = dtype
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _recipe_text(plan: Plan) -> str:
    import yaml

    return yaml.safe_dump(plan.recipe, sort_keys=False, allow_unicode=True)


def _card(plan: Plan) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    method = plan.recipe["merge_method"]
    calibration = plan.recipe.get("calibrate")
    title = method + (f" + {calibration['method']}" if calibration and calibration["method"] != "none" else "")
    data = ModelCardData(library_name="transformers", tags=["merge", "svc-dist", method])
    models = "\n".join(f"- `{model.name}`" for model in plan.models[1:])
    text = f"""---
{data.to_yaml()}
---

# Merged model ({title})

Made by svc_dist {__version__} from the base `{plan.models[0].location}` and

{models}

with this recipe (precision `{plan.settings.precision}`):

```yaml
{_recipe_text(plan).rstrip()}
```

`{REPORT_FILE}` holds what became of each tensor, the identity of every input file and the checksum of every range;
`svc-dist verify --deep` checks the shards against it.
"""
    return str(ModelCard(text))
