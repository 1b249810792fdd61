"""The model card and the recipe beside a merged model."""

from __future__ import annotations

import re
from typing import Any

from svc_dist import __version__
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.auto.chosen import choice_markdown
from svc_dist.plan.inputs import PlannedModel
from svc_dist.plan.model import Plan
from svc_dist.run.provenance.local_paths import is_local, short_names, without_local_paths
from svc_dist.run_folder.report import REPORT_FILE
from svc_dist.storage.access import DOCUMENT
from svc_dist.storage.hub.branch import SCHEME
from svc_dist.storage.hub.cache import parse_hub_id

_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_SHORTENED = (
    f"# Local paths are shortened to their last part; {REPORT_FILE} has the recipe with every path and default.\n"
)


def recipe_text(plan: Plan, own: str | None) -> str:
    """The recipe beside a model: the user's own file, where there was one, without absolute local paths."""
    import yaml

    whole = own or yaml.safe_dump_all([*plan.documents, plan.recipe], sort_keys=False, allow_unicode=True)
    text = without_local_paths(whole)
    text = text if text.endswith("\n") else f"{text}\n"
    return text if text.rstrip("\n") == whole.rstrip("\n") else _SHORTENED + text


def card(plan: Plan, own: str | None) -> str:
    """The model card. ``own``: the user's recipe."""
    from huggingface_hub import ModelCard, ModelCardData

    method = plan.recipe["merge_method"]
    calibration = plan.recipe.get("calibrate")
    each = calibration if isinstance(calibration, list) else [calibration or {"method": "none"}]
    title = " + ".join([method, *(one["method"] for one in each if one["method"] != "none")])
    library, what = ("transformers", "model") if plan.adapter is None else ("peft", "adapter")
    data = ModelCardData(library_name=library, tags=["merge", "svc-dist", method], **_base_models(plan))
    names = _names(plan.models)
    models = "\n".join(f"- `{name}`" for name in names[1:])
    papers = "\n".join(f"- {line}" for line in _papers(plan))
    text = f"""---
{data.to_yaml()}
---

# Merged {what} ({title})

Made by svc_dist {__version__} from the base `{names[0]}` and

{models}

with this recipe (precision `{plan.settings.precision}`):

```yaml
{recipe_text(plan, own).rstrip()}
```
{choice_markdown(plan.auto)}
Methods:

{papers}

`{REPORT_FILE}` holds what became of each tensor, the identity of every input file and the checksum of every range;
`svc-dist verify --deep` checks the shards against it.
"""
    return str(ModelCard(text))


def _base_models(plan: Plan) -> dict[str, Any]:
    """What a hub takes as the models that this one was made from: ids of its repositories, and nothing else."""
    if plan.adapter is not None:
        base = parse_hub_id(str(plan.adapter["base_model_name_or_path"]))
        return {} if base is None else {"base_model": base.repository}
    models = [model for model in plan.models if not model.label.startswith(DOCUMENT)]
    every = [one for model in models for one in (model, model.adapter) if one is not None]
    urls = (one.location.removeprefix(SCHEME) if one.location.startswith(SCHEME) else "" for one in every)
    ids = [parse_hub_id(one.hub or url) for one, url in zip(every, urls, strict=True)]
    merged = list(dict.fromkeys(one.repository for one in ids if one is not None))
    return {"base_model": merged, "base_model_relation": "merge"} if merged else {}


def _names(models: tuple[PlannedModel, ...]) -> list[str]:
    """What models are called: hub ids and URLs as they are, local ones by the ends of their paths."""
    every = [one for model in models for one in (model, model.adapter) if one is not None]
    local = list(dict.fromkeys(one.location for one in every if one.hub is None and is_local(one.location)))
    short = dict(zip(local, short_names(local), strict=True))

    def named(model: PlannedModel) -> str:
        both = "+".join(one.hub or short.get(one.location, one.location) for one in (model, model.adapter) if one)
        return both + model.name.removeprefix("+".join(one.label for one in (model, model.adapter) if one))

    return [named(model) for model in models]


def _papers(plan: Plan) -> list[str]:
    """The methods and calibrations of a merge, each with a link to its paper."""
    lines = []
    for name in sorted(plan.methods):
        entry = METHODS.get(name) or CALIBRATIONS.get(name)
        source = "" if entry is None else entry.source
        link = _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", source)
        lines.append(f"`{name}`: {link}" if link else f"`{name}`")
    return lines
