"""Whether a model's config and the tensors that a merge writes agree about quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svc_dist.checkpoint.checkpoint import CONFIG, Checkpoint
from svc_dist.checkpoint.formats.declarations import declarations
from svc_dist.checkpoint.formats.table import quantised_tensors
from svc_dist.errors import Warned, printable, warned
from svc_dist.plan.tensors.dispositions import Decision
from svc_dist.sizes import counted


def is_stale(model: Checkpoint, decisions: Sequence[Decision]) -> bool:
    """Whether ``model``, whose config is copied, says that it is quantised although no tensor that is written is."""
    declared = bool(declarations(model.config) or model.quantisation_files)
    return declared and not _written_codes(decisions)


def warnings(model: Checkpoint, decisions: Sequence[Decision], stale: bool) -> Iterator[Warned]:
    """Warnings about a ``model`` whose config and the tensors that are written disagree."""
    if any(spec.codec is not None for spec in model.tensors.values()):
        return  # its weights are decoded, as the recipe asks
    keys = [*(f"{CONFIG}: {key}" for key in declarations(model.config)), *model.quantisation_files]
    if stale:
        yield warned(
            "quantisation-dropped",
            f"{model.location} says that it is quantised ({', '.join(keys)}), but no tensor that is written is: the "
            "merged model does not get this, because loaders would look for scales that are not there",
        )
    elif not keys and (codes := _written_codes(decisions)):
        yield warned(
            "quantisation-undeclared",
            f"{counted(len(codes), 'tensor')} like {printable(codes[0])} are written as they are, quantised, but "
            f"{model.location} does not say so: a loader would read them as weights",
        )


def _written_codes(decisions: Sequence[Decision]) -> list[str]:
    """The names of the written tensors that hold codes."""
    return [*quantised_tensors({d.name: d.spec for d in decisions if d.spec is not None}, None)[0]]
