"""The page about merge methods, from the registry: ``svc-dist methods`` prints it, ``docs/methods.md`` holds it."""

from __future__ import annotations

from svc_dist.methods.method import Calibration, Method
from svc_dist.methods.parameters import ByExperts, Parameter
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.recipe.presets import PRESETS

_FAMILIES = {
    "elementwise": "Element-wise methods take every tensor.",
    "spectral": "Spectral methods take matrices (2-D weights, convolution kernels, fused experts each); embeddings, "
    "heads and everything else take the recipe's `fallback`.",
}


def render() -> str:
    """The page as Markdown."""
    lines = [
        "# Merge methods",
        "",
        "Made from the registry by `svc-dist methods --markdown`. A merge is `W_base + lambda * M`; methods make `M`.",
        "A parameter marked *per expert* may stand under a model or, for all, under the top-level `parameters`.",
        "",
    ]
    for family, about in _FAMILIES.items():
        title = "Element-wise" if family == "elementwise" else "Spectral"
        lines += [f"## {title}", "", about, ""]
        for method in METHODS.values():
            if method.family == family:
                lines += _section(method)
    lines += [
        "## Calibration",
        "",
        "On top of any merge method, for matrices: `calibrate:` in a recipe or in a rule.",
        "",
    ]
    for calibration in CALIBRATIONS.values():
        lines += _section(calibration)
    lines += ["## Presets", "", "`preset: NAME` fills in what the recipe leaves out; the plan shows the values.", ""]
    lines += ["| preset | what it is | source |", "|---|---|---|"]
    lines += [f"| `{name}` | {preset.doc} | {preset.source} |" for name, preset in PRESETS.items()]
    return "\n".join(lines) + "\n"


def _section(entry: Method | Calibration) -> list[str]:
    about = entry.doc[0].upper() + entry.doc[1:] + (f" ({entry.source})" if entry.source else "") + "."
    if isinstance(entry, Method):
        reads = {"one pass": "reads each delta once", "two passes": "reads each delta twice"}
        about += f" It {reads.get(entry.access, 'looks at all experts at once')}"
        least, most = entry.experts
        about += (
            "; takes exactly one expert." if most == 1 else f"; takes at least {least} experts." if least > 1 else "."
        )
        if entry.factored is not None:
            about += " LoRA adapters are merged from their factors ([lora.md](lora.md))."
    lines = [f"### {entry.name}", "", about, ""]
    if entry.all_parameters:
        lines += ["| parameter | default | allowed | meaning |", "|---|---|---|---|"]
        lines += [_row(parameter) for parameter in entry.all_parameters]
        lines.append("")
    return lines


def default_of(parameter: Parameter) -> str:
    """A default as one would write it in YAML, or its formula where it depends on the number K of experts."""
    if isinstance(parameter.default, ByExperts):
        return parameter.default.formula
    if isinstance(parameter.default, bool):
        return str(parameter.default).lower()
    return f"{parameter.default:g}" if isinstance(parameter.default, float) else str(parameter.default)


def _row(parameter: Parameter) -> str:
    default = default_of(parameter)
    about = parameter.doc + (" (per expert)" if parameter.per_model else "")
    return f"| `{parameter.name}` | {default} | {parameter.allowed()} | {about} |"
