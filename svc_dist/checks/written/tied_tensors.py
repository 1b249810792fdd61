"""Whether tensors of a model that its config or its architecture ties are equal."""

from __future__ import annotations

from collections.abc import Mapping

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import printable
from svc_dist.plan.tensors.alias_groups import alias_groups, ties
from svc_dist.plan.tensors.copies import same_bytes, same_sample
from svc_dist.storage.reading import Source


def tied_problems(model: Checkpoint, source: Source, deep: bool) -> list[str] | None:
    """The tied pairs that differ; None where the model stores no tied tensor twice. ``deep``: compare all bytes."""
    same = same_bytes if deep else same_sample
    problems, compared = [], 0
    for group in alias_groups({name: spec.shape for name, spec in model.tensors.items()}):
        tied = group.head is not None and ties(model.config, group.head)
        first, *others = group.names if tied else group.shared
        for name in others:
            compared += 1
            if not same(source, model.tensors[first], model.tensors[name]):
                by = (
                    "config.json ties them (tie_word_embeddings)"
                    if name == group.head
                    else "the architecture ties them"
                )
                problems.append(f"{printable(name)} differs from {printable(first)}, but {by}: loaders keep only one")
    return problems if compared else None


def stored_apart(stored: Mapping[str, TensorSpec], base: Mapping[str, TensorSpec]) -> set[str]:
    """The names that a model stores and its base does not, because there another tensor is the same: untied heads."""
    groups = alias_groups({name: spec.shape for name, spec in (*base.items(), *stored.items())})
    return {
        name
        for group in groups
        if any(one in base for one in group.names)
        for name in group.names
        if name in stored and name not in base
    }
