"""Layers for multi-token prediction (MTP), which many fine-tunes lack and no merge needs: what the plan says of them.

They are copied from the base, or left out where it has none, unless a rule decides. The config of a result without
them must not announce them: servers would look for their tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from svc_dist.errors import Warned, printable, warned
from svc_dist.plan.files.layers import config_section, section_paths
from svc_dist.plan.tensors.dispositions import LACKS_MTP, Decision
from svc_dist.recipe.rules.kinds import kinds_of
from svc_dist.sizes import counted

#: How many such layers there are, in the configs of DeepSeek and GLM, of Qwen, of MiniMax and others.
_COUNTS = (
    "num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers", "mtp_num_layers",
    "num_nextn_layers",
)  # fmt: skip
#: Whether there are any.
_FLAGS = ("use_mtp",)


def multi_token_values(
    configs: Sequence[Mapping[str, Any] | None], described: int, decisions: Sequence[Decision]
) -> dict[str, Any]:
    """The keys of the result's config that differ from those of model ``described``, by path.

    ``configs``: of all models, the base's first.
    """
    keys = (*_COUNTS, *_FLAGS)
    elsewhere = (one.spec is None or one.disposition.source != described for one in decisions)
    if not any(section.get(key) for one in configs for _, section in _sections(one) for key in keys):
        return {}
    if not any(elsewhere):
        return {}
    kinds = kinds_of(one.name for one in decisions)
    extra = [one.disposition for one in decisions if kinds.get(one.name) == "mtp"]
    written = [one for one in extra if one.kind in ("merged", "copied")]
    copied = bool(written) and all(one.kind == "copied" for one in written)
    right = configs[written[0].source if copied else described] or {}
    values: dict[str, Any] = {}
    for path, section in _sections(configs[described]) if extra else ():
        theirs = config_section(right, path)
        for key in keys:
            value = theirs.get(key) if written else False if key in _FLAGS else 0
            if value is not None and section.get(key, 0) != value:
                values[".".join((*path, key))] = value
    return values


def multi_token_warnings(decisions: Sequence[Decision]) -> Iterator[Warned]:
    """What becomes of the layers that some model lacks, where no rule says it."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in decisions:
        if one.disposition.reason.startswith(LACKS_MTP):
            groups.setdefault((one.disposition.kind, one.disposition.reason), []).append(one.name)
    for (kind, reason), names in groups.items():
        became = "copied from the base" if kind == "copied" else "left out"
        other = "leave them out" if kind == "copied" else "take those of a model"
        keep = "none" if kind == "copied" else "NAME"
        yield warned(
            "mtp-missing",
            f"{counted(len(names), 'tensor')} like {printable(names[0])} {reason.removeprefix(LACKS_MTP)}: {became}; "
            f"to {other}, add the rule {{kind: mtp, keep: {keep}}}",
        )


def _sections(config: Mapping[str, Any] | None) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The config and its sections about the language model, each with its path."""
    return ((path, config_section(config, path)) for path in section_paths(config)) if config else iter(())
