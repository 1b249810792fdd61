"""What ``svc-dist plan`` and ``svc-dist methods`` print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from svc_dist.cli.methods_page import default_of
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.plan.model import Plan
from svc_dist.recipe.presets import PRESETS
from svc_dist.sizes import format_size
from svc_dist.tensor_names import printable


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
            yield f"{len(names)} tensor{'s' if len(names) > 1 else ''} {what}; {entry.reason}"
            yield f"    {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    for name, reason in plan.not_written:
        yield f"not written: {printable(name)}; {reason}"
    largest = max(plan.units, key=lambda unit: unit.memory)
    holder = printable(plan.tensors[max(largest.pieces, key=lambda piece: piece[2] - piece[1])[0]].name)
    experts = len(plan.models) - 1
    yield f"{experts} expert{'s' if experts > 1 else ''} over {plan.models[0].location}"
    yield f"{len(plan.tensors)} tensors, {len(plan.shards)} shards, {len(plan.units)} units"
    yield f"read {format_size(plan.bytes_in)}, write {format_size(plan.bytes_out)}"
    yield f"peak memory of the largest unit {format_size(largest.memory)} ({holder})"
    yield f"estimated {sum(unit.flops for unit in plan.units) / 1e12:.3g} Tflop, precision {plan.settings.precision}"
    yield f"fingerprint {plan.fingerprint[:16]}"


def _listed(parameters: dict[str, Any] | None) -> str:
    return " (" + ", ".join(f"{key} {_short(value)}" for key, value in parameters.items()) + ")" if parameters else ""


def _short(value: Any) -> str:
    if isinstance(value, list):
        return _short(value[0]) if len(set(value)) == 1 else "[" + ", ".join(map(_short, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
