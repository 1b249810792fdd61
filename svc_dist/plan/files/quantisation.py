"""Whether a model's config and the tensors that a merge writes agree about quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from svc_dist.checkpoint.checkpoint import CONFIG, Checkpoint
from svc_dist.checkpoint.formats.declarations import declarations
from svc_dist.checkpoint.formats.table import quantised_tensors
from svc_dist.errors import PlanError, Warned, printable, warned
from svc_dist.plan.tensors.dispositions import Decision
from svc_dist.sizes import counted


def is_stale(model: Checkpoint, decisions: Sequence[Decision]) -> bool:
    """Whether ``model``, whose config is copied, says that it is quantised although no tensor that is written is."""
    declared = bool(declarations(model.config) or model.quantisation_files)
    return declared and not _written_codes(decisions)


def warnings(model: Checkpoint, decisions: Sequence[Decision], stale: bool) -> Iterator[Warned]:
    """Warnings about a ``model`` whose config and the tensors that are written disagree."""
    if any(spec.codec is not None for spec in model.tensors.values()):
        carried = [d.name for d in decisions if d.spec is not None and d.name in model.unneeded]
        if carried:
            yield warned(
                "quantisation-carried",
                f"{counted(len(carried), 'tensor')} like {printable(carried[0])} are scales of activations, which no "
                f"merge gives: the result gets those of {model.location}, which are estimates for it",
            )
        return  # its weights are read as what their codes stand for
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


def declared_values(base: Checkpoint, model: Checkpoint, decisions: Sequence[Decision]) -> dict[str, Any]:
    """What the config of ``model``, which is copied, must say about the codes of the base that are written, by paths.

    Raises PlanError where it cannot say so.
    """
    if model is base or not any(d.codec is not None for d in decisions):
        return {}
    of_base, own = ({path: _at(one.config, path) for path in declarations(one.config)} for one in (base, model))
    if own.keys() - of_base.keys() or base.quantisation_files != model.quantisation_files:
        raise PlanError(
            f"the result is written in the codes of {base.location}, but {model.location}, whose config it gets, "
            "declares its quantisation elsewhere",
            "leave `config_source` out, or write `quantization: none`",
            code="quantised-config",
        )
    return {path: value for path, value in of_base.items() if own.get(path) != value}


def _at(config: Mapping[str, Any] | None, path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = value[key]
    return value


def _written_codes(decisions: Sequence[Decision]) -> list[str]:
    """The names of the written tensors that hold codes."""
    if coded := [d.name for d in decisions if d.codec is not None]:
        return coded
    return [*quantised_tensors({d.name: d.spec for d in decisions if d.spec is not None}, None)[0]]
