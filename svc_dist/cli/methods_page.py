"""The registry's methods, calibrations and presets: as lines for a terminal, and as the page ``docs/methods.md``."""

from __future__ import annotations

import json
from collections.abc import Iterator

from svc_dist.cli.overview.values import shown
from svc_dist.methods.auto.table import CALIBRATIONS as CALIBRATIONS_BY_AUTO
from svc_dist.methods.auto.table import MERGE_METHODS
from svc_dist.methods.method import Calibration, Method
from svc_dist.methods.parameters import ByExperts, Parameter
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.recipe.presets import PRESETS


def method_lines() -> Iterator[str]:
    """The list for a terminal."""
    for _, title, _, entries in _groups():
        yield f"{title}:"
        for entry in entries:
            yield f"  {entry.name:18s}{_about(entry)}"
            if entry.all_parameters:
                yield f"{'':20s}" + ", ".join(f"{p.name} {_default(p)}".strip() for p in entry.all_parameters)
    yield "presets:"
    for name, preset in PRESETS.items():
        yield f"  {name:18s}{preset.doc} ({preset.source})"
    yield "auto: `merge_method: auto` and `calibrate: auto` choose by the number and the kind of the experts"
    yield "      (experimental; docs/methods.md)"


def render() -> str:
    """The page as Markdown."""
    lines = [
        "# Merge methods",
        "",
        "Made from the registry by `svc-dist methods --markdown`. A merge is `W_base + lambda * M`; methods make `M`.",
        "A parameter marked *per expert* may stand under a model or, for all, under the top-level `parameters`.",
        "",
    ]
    for title, _, about, entries in _groups():
        lines += [f"## {title}", "", about, ""]
        for entry in entries:
            lines += _section(entry)
    lines += _auto()
    lines += ["## Presets", "", "`preset: NAME` fills in what the recipe leaves out; the plan shows the values.", ""]
    lines += ["| preset | what it is | source |", "|---|---|---|"]
    lines += [f"| `{name}` | {preset.doc} | {preset.source} |" for name, preset in PRESETS.items()]
    return "\n".join(lines) + "\n"


def _auto() -> list[str]:
    """The decision tables of ``auto``."""
    lines = ["## auto", ""]
    lines += [
        "`merge_method: auto` chooses a method, its parameters and a calibration when the merge is planned, by the",
        "first row that fits; `calibrate: auto` chooses a calibration for the method that the recipe names. The number",
        "and the kind of the experts select a row; for a calibration alone the method, its lambda and the number of",
        "experts do. Figures that planning samples from the experts are shown for information.",
        "*Experimental*: see [Choose a method and alpha](choosing.md#auto).",
        "",
    ]
    for key, table in (("merge_method: auto", MERGE_METHODS), ("calibrate: auto", CALIBRATIONS_BY_AUTO)):
        lines += [f"| `{key}` for | chooses | because | evidence |", "|---|---|---|---|"]
        for row in table:
            methods = f"{', '.join(f'`{name}`' for name in row.methods)}: " if row.methods else ""
            chosen = f"`{json.dumps(dict(row.keys))[1:-1]}`".replace('"', "")
            lines.append(f"| {methods}{row.title} | {chosen} | {row.because} | {row.evidence or 'none yet'} |")
        lines.append("")
    return lines


def _groups() -> Iterator[tuple[str, str, str, list[Method | Calibration]]]:
    """Each group of entries with its title on the page, its title in a terminal, and what it applies to."""
    methods = METHODS.values()
    yield (
        "Element-wise", "element-wise methods", "Element-wise methods take every tensor.",
        [method for method in methods if method.family == "elementwise"],
    )  # fmt: skip
    yield (
        "Spectral", "spectral methods (matrices)",
        "Spectral methods take matrices (2-D weights, convolution kernels, fused experts each); embeddings, "
        "heads and everything else take the recipe's `fallback`.",
        [method for method in methods if method.family == "spectral"],
    )  # fmt: skip
    yield (
        "Calibration", "calibrations (on top of any method)",
        "On top of any merge method, for matrices: `calibrate:` in a recipe or in a rule. A list is applied in order, "
        "each calibration on what the one before made: `calibrate: [svc, magic]`.",
        list(CALIBRATIONS.values()),
    )  # fmt: skip


def _about(entry: Method | Calibration) -> str:
    about = f"{entry.doc} ({entry.source})" if entry.source else entry.doc
    return f"{about}, experimental" if entry.experimental else about


def _section(entry: Method | Calibration) -> list[str]:
    about = entry.doc[0].upper() + _about(entry)[1:] + "."
    if isinstance(entry, Method):
        reads = {"one pass": "reads each delta once", "two passes": "reads each delta twice"}
        about += f" It {reads.get(entry.access, 'looks at all experts at once')}"
        least, most = entry.experts
        if most is not None:
            about += "; takes exactly one expert" if most == 1 else f"; takes at most {most} experts"
        about += f"; takes at least {least} experts." if least > 1 else "."
        if entry.factored is not None:
            about += " LoRA adapters are merged from their factors ([lora.md](lora.md))."
    lines = [f"### {entry.name}", "", about, ""]
    if entry.experimental:
        lines += ["*Experimental: no measurement here says yet when to choose it; a later release may drop it.*", ""]
    if entry.all_parameters:
        lines += ["| parameter | default | allowed | meaning |", "|---|---|---|---|"]
        for parameter in entry.all_parameters:
            meaning = parameter.doc + (" (per expert)" if parameter.per_model else "")
            lines.append(f"| `{parameter.name}` | {_default(parameter)} | {parameter.allowed()} | {meaning} |")
        lines.append("")
    return lines


def _default(parameter: Parameter) -> str:
    """A default as one would write it in YAML, or its formula where it depends on the number K of experts."""
    return parameter.default.formula if isinstance(parameter.default, ByExperts) else shown(parameter.default)
