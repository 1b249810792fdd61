"""What ``svc-dist merge``, ``plan`` and ``methods`` print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from svc_dist.cli.methods_page import default_of
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.model import Plan
from svc_dist.recipe.presets import PRESETS
from svc_dist.sizes import counted, format_size
from svc_dist.tensor_names import printable

if TYPE_CHECKING:
    from svc_dist.run.session import MergeSummary


def merge_line(summary: MergeSummary) -> str:
    """What a merge did, in one line."""
    resumed = summary.units_resumed
    earlier = f"; {resumed:,} of {counted(summary.units, 'unit')} came from earlier runs" if resumed else ""
    return (
        f"{summary.output}: {counted(summary.tensors, 'tensor')} in {counted(summary.shards, 'shard')}, "
        f"{format_size(summary.bytes_out)}, verified, {summary.seconds:.1f} s{earlier}"
    )


def method_lines() -> Iterator[str]:
    """Methods, calibrations and presets, with parameters and papers."""
    groups: list[tuple[str, list[Any]]] = [
        ("element-wise methods", [method for method in METHODS.values() if method.family == "elementwise"]),
        ("spectral methods (matrices)", [method for method in METHODS.values() if method.family == "spectral"]),
        ("calibrations (on top of any method)", list(CALIBRATIONS.values())),
    ]
    for title, entries in groups:
        yield f"{title}:"
        for entry in entries:
            yield f"  {entry.name:18s}{entry.doc}" + (f" ({entry.source})" if entry.source else "")
            if entry.all_parameters:
                yield f"{'':20s}" + ", ".join(f"{p.name} {default_of(p)}".strip() for p in entry.all_parameters)
    yield "presets:"
    for name, preset in PRESETS.items():
        yield f"  {name:18s}{preset.doc} ({preset.source})"


def plan_lines(plan: Plan) -> Iterator[str]:
    """What becomes of which tensors, and what that takes."""
    named: list[list[str]] = [[] for _ in plan.results[0].dispositions]
    for tensor in plan.tensors:
        named[tensor.disposition].append(printable(tensor.name))
    for result in plan.results:
        if result.path:
            yield f"output {result.path}:"
        for entry, names in zip(result.dispositions, named, strict=True):
            what = f"merged by {entry.method}{_listed(entry.parameters)}" if entry.method else entry.kind
            if entry.calibration is not None:
                rest = {key: value for key, value in entry.calibration.items() if key != "method"}
                what += f", calibrated by {entry.calibration['method']}{_listed(rest)}"
            yield f"{counted(len(names), 'tensor')} {what}; {entry.reason}"
            yield f"    {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    for name, reason in plan.not_written:
        yield f"not written: {printable(name)}; {reason}"
    yield from _sidecar_lines(plan)
    largest = max(plan.units, key=lambda unit: unit.memory)
    holder = printable(plan.tensors[max(largest.pieces, key=lambda piece: piece[2] - piece[1])[0]].name)
    settings = plan.settings
    yield f"merges {counted(len(plan.models) - 1, 'expert')} into the base {plan.models[0].location}"
    yield (
        f"writes {counted(len(plan.tensors), 'tensor')} to {counted(len(plan.shards), 'shard')} "
        f"in {counted(len(plan.units), 'unit')}"
    )
    yield f"reads {format_size(plan.bytes_in)}, writes {format_size(plan.bytes_out)}"
    yield f"needs at most {format_size(largest.memory)} of memory for a unit ({holder})"
    yield f"computes about {sum(unit.flops for unit in plan.units) / 1e12:.3g} Tflop"
    yield (
        f"planned for {settings.device}, precision {settings.precision}, "
        f"{counted(settings.threads_per_unit, 'thread')} per unit"
    )
    yield f"fingerprint {plan.fingerprint[:16]}"


def _sidecar_lines(plan: Plan) -> Iterator[str]:
    """The files beside the weights: copied from which model, and not copied for which reason."""
    changes = {"dtype": " (with the recipe's dtype)", "template": " (with the chat template)", "text": " (written)"}
    groups: dict[str, list[str]] = {}
    for sidecar in plan.sidecars:
        title = f"beside the weights, from {plan.models[sidecar.source].location}"
        groups.setdefault(title, []).append(printable(sidecar.name) + changes.get(sidecar.rewrite, ""))
    for one in plan.left_out:
        groups.setdefault(f"not copied from {one.location} ({one.reason})", []).append(printable(one.name))
    for title, names in groups.items():
        yield f"{title}: {', '.join(names)}"


def _listed(parameters: dict[str, Any] | None) -> str:
    return " (" + ", ".join(f"{key} {_short(value)}" for key, value in parameters.items()) + ")" if parameters else ""


def _short(value: Any) -> str:
    if isinstance(value, list):
        return _short(value[0]) if len(set(value)) == 1 else "[" + ", ".join(map(_short, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
