"""Whether adapters are merged over the model that they were trained on, by the names that files give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from svc_dist.checkpoint.adapters.adapter import OpenedModel
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.errors import Warned, warned

#: What quantised copies of a model for training append to its name.
_COPIES = re.compile(r"(-unsloth)?-(bnb-)?[48]bit$|-(bf16|fp16|hf)$")
_CACHED = re.compile(r"models--(?:.+--)?(?P<name>[^/]+)/snapshots/")


def other_bases(models: Sequence[OpenedModel]) -> Iterator[Warned]:
    """A warning for each model that adapters name as their base and that is not the one below them.

    ``models``: the base first. Only names are compared: two paths to one model may differ.
    """
    base = models[0].model
    assert base is not None
    differing: dict[tuple[str, str], list[str]] = {}
    for model in models:
        below = model.model or base
        if model.adapter is None or not model.adapter.config.base_model:
            continue
        named = model.adapter.config.base_model
        if _short(named) not in {_short(name) for name in _names(below)}:
            differing.setdefault((named, below.location), []).append(model.adapter.location)
    for (named, location), adapters in differing.items():
        who = adapters[0] if len(adapters) == 1 else f"{adapters[0]} and {len(adapters) - 1} more"
        config = base.config if location == base.location else None
        calls = str((config or {}).get("_name_or_path") or "")
        also = f" ({calls} by its config.json)" if calls and _short(calls) != _short(location) else ""
        yield warned(
            "adapter-of-another-base",
            f"{who}: trained on {named} (base_model_name_or_path in adapter_config.json), but merged over "
            f"{location}{also}: an adapter to another model adds noise; check that they are the same",
        )


def _names(model: Checkpoint) -> Iterator[str]:
    yield model.location
    recorded = (model.config or {}).get("_name_or_path")
    if isinstance(recorded, str) and recorded:
        yield recorded


def _short(name: str) -> str:
    """The last part of a path, URL or repository, without a revision and the marks of a copy."""
    cached = _CACHED.search(name)
    last = cached["name"] if cached is not None else re.split(r"[/\\]", name.rstrip("/\\"))[-1].partition("@")[0]
    return _COPIES.sub("", last.lower())
