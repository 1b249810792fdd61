"""The files beside the shards of each result: sidecars, and the index or an adapter's configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence

from svc_dist.plan.files.sidecars import Sidecar, content, json_text
from svc_dist.plan.model import Plan
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage


def sidecar_contents(plan: Plan, access: Access, sidecars: Sequence[Sidecar]) -> list[tuple[Sidecar, bytes]]:
    """Each sidecar with its content in every result. Raises ChangedInputError for one that changed since planning."""
    dtype = plan.recipe.get("out_dtype") or plan.recipe.get("dtype")
    locations = [one.elsewhere or plan.models[one.source].location for one in sidecars]
    storages = {location: open_storage(location, access) for location in dict.fromkeys(locations)}
    return [
        (
            one,
            index_text(plan).encode()
            if one.rewrite == "adapter"
            else content(one, storages[location], dtype, plan.chat_template, plan.added_tokens),
        )
        for one, location in zip(sidecars, locations, strict=True)
    ]


def index_text(plan: Plan) -> str:
    """The file that is written last in each result: the index, or the configuration of an adapter."""
    if plan.adapter is not None:
        return json_text(plan.adapter).decode()
    weight_map = {part.name: plan.shard_file(one.shard) for one in plan.indexed for part in one.written}
    return json.dumps({"metadata": {"total_size": plan.tensor_bytes}, "weight_map": weight_map}, indent=2) + "\n"
