"""A report as one self-contained HTML page."""

from __future__ import annotations

import html
from dataclasses import dataclass

import yaml

from svc_dist.errors import DamagedInputError, printable
from svc_dist.plan.auto.chosen import choice_sentences
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.differences import difference_lines
from svc_dist.report.page_file import mark
from svc_dist.report.sections import heatmap, lines, worst
from svc_dist.report.sections.compared import compared, how
from svc_dist.report.sections.do_this import do_this
from svc_dist.report.sections.overlap import overlap
from svc_dist.report.sections.style import STYLE
from svc_dist.report.sections.tiles import tiles
from svc_dist.report.summary import Summary
from svc_dist.report.verdict import verdict
from svc_dist.run_folder.experts import passed
from svc_dist.run_folder.report import MergeReport
from svc_dist.sizes import counted, format_size


@dataclass(frozen=True)
class Other:
    """Another merge, to compare with, and its name."""

    name: str
    report: MergeReport


def render(report: MergeReport, title: str, other: Other | None = None) -> str:
    """The page of a merge's report or of an inspection. Sections without data are missing or say so.

    Raises DamagedInputError for a report whose figures are none.
    """
    try:
        return _page(report, title, other)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of whatever was edited
        raise DamagedInputError(
            f"merge_report.json holds figures that cannot be drawn: {error!r}", "restore the file that the merge wrote"
        ) from None


def _page(report: MergeReport, title: str, other: Other | None) -> str:
    diagnosis = Diagnosis(report)
    recipe = yaml.safe_dump(report.recipe, sort_keys=False, allow_unicode=True)
    sections = [
        _section("Do this", do_this(diagnosis)),
        "" if other is None else _comparison(diagnosis, title, other),
        _section("Scores", _evaluations(report)),
        _section("Over-counting", _overcounting(diagnosis)),
        _section("Gamma", _gamma(diagnosis)),
        _section("Worst matrices", worst.table(diagnosis)),
        _section("Spectra", lines.spectra(diagnosis)),
        _section("Cross-expert overlap", overlap(diagnosis)),
        _section("Kept ranks", _ranks(diagnosis)),
        _section("Delta norms", lines.norms(diagnosis)),
        _section("Where the time went", _times(report.unit_seconds)),
        _section("Difference from the base", _differences(diagnosis)),
        _section("Provenance", _provenance(report)),
        _section("Recipe", f"<pre>{html.escape(recipe)}</pre>"),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{mark(report)}\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n{_what(report)}\n"
        f'{tiles(Summary.of(diagnosis))}\n<p class="verdict">{html.escape(verdict(diagnosis))}</p>\n'
        f"{body}\n</body>\n</html>\n"
    )


def _what(report: MergeReport) -> str:
    """What was merged or inspected, in a line."""
    what = how(report) if report.ranges else "inspected before a merge"
    parts = [counted(len(report.models) - 1, "expert"), what, report.finished.replace("T", " ").replace("Z", " UTC")]
    return f'<p class="soft">{html.escape(printable(" · ".join(part for part in parts if part)))}</p>'


def _section(title: str, text: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{text}" if text else ""


def _comparison(diagnosis: Diagnosis, title: str, other: Other) -> str:
    text = compared(diagnosis, Diagnosis(other.report), (title.removeprefix("Merge "), other.name))
    return _section(f"Compared with {other.name}", text)


def _times(seconds: dict[str, float]) -> str:
    """The seconds of all units by stage, as a bar."""
    known = ("read", "compute", "write")
    order = [*(name for name in known if name in seconds), *sorted(name for name in seconds if name not in known)]
    if not sum(seconds.values()):
        return ""
    colours = [f"l{min(number, 4)}" for number in range(len(order))]
    shares = "".join(
        f'<strong class="{colour}" style="flex: {seconds[name]:.6g}"></strong>'
        for name, colour in zip(order, colours, strict=True)
    )
    names = "".join(
        f'<span><em class="{colour}"></em>{html.escape(name)} {seconds[name]:.1f} s</span>'
        for name, colour in zip(order, colours, strict=True)
    )
    return f'<p>Seconds of all units.</p>\n<div class="bar">{shares}</div>\n<p class="stages">{names}</p>'


def _overcounting(diagnosis: Diagnosis) -> str:
    found = heatmap.times_map(diagnosis)
    if not found.values:
        return "<p><code>svc-dist inspect RECIPE</code> shows what calibration would do, without merging.</p>"
    return (
        "<p>How many times the plain sum of the experts counts what they learned, by layer and kind of module: 1 where "
        "they share nothing, as many times as there are experts where all learned the same, below 1 where they cancel "
        f"each other. The scale is the same on every page.</p>\n{heatmap.legend()}\n{found.html()}"
    )


def _gamma(diagnosis: Diagnosis) -> str:
    if not diagnosis.calibrated:
        return ""
    did = "scaled" if diagnosis.report.ranges else "would scale"
    return (
        f"<p>Gamma is the factor by which SVC {did} a singular value of the merged delta: below 1 (warm) where a "
        "direction was counted more than once, above 1 (cool) where experts cancel each other or weights below 1 count "
        "it less than once. Each cell is the mean over the directions of its matrices, by energy.</p>\n"
        + heatmap.means(diagnosis, "gamma_by_energy").html(heatmap.inverse_shade)
    )


def _ranks(diagnosis: Diagnosis) -> str:
    found = heatmap.means(diagnosis, "kept_rank")
    if not found.values:
        return ""
    shown = found.html(lambda _: "w0", lambda rank: f"{rank:.0f}")
    return f"<p>Directions that the merge method kept.</p>\n{shown}"


def _evaluations(report: MergeReport) -> str:
    """What the commands under ``evaluate`` said of the model."""
    rows = [
        f"<tr><td>{html.escape(one.name)}</td><td>{html.escape(name)}</td><td>{value:.6g}</td>"
        f"<td><code>{html.escape(one.command)}</code></td></tr>"
        for one in report.evaluations
        for name, value in one.metrics.items()
    ]
    head = "<tr><th>evaluation</th><th>metric</th><th>value</th><th>command</th></tr>"
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>' if rows else ""


def _differences(diagnosis: Diagnosis) -> str:
    """How far experts are from the base, where it was measured exactly, and what a condition let through."""
    table = "\n".join(difference_lines(diagnosis))
    if not table:
        return ""
    report = diagnosis.report
    said = passed([bool(one["merged"]) for one in report.only_where]) if report.ranges else ""
    return (
        f"<p>{html.escape(said)}</p>\n<p>How far the farthest expert of each tensor is from the base: the norm of its "
        "difference, divided by the base's norm. <code>only_where: {relative_difference: ...}</code> merges what is "
        f"farther than a threshold.</p>\n<pre>{html.escape(table)}</pre>"
    )


def _provenance(report: MergeReport) -> str:
    base, *experts = report.models
    rows = [("base", base.name)]
    rows += [("expert" if number == 0 else "", model.name) for number, model in enumerate(experts)]
    rows += [
        ("read", format_size(report.bytes_in)),
        ("written", format_size(report.bytes_out) if report.ranges else ""),
        ("auto", "; ".join(choice_sentences(report.auto))),
        ("precision", report.settings.precision),
        ("devices", ", ".join(report.devices)),
        ("hosts", ", ".join(report.hosts)),
        ("finished", report.finished),
        ("svc_dist", report.svc_dist),
        ("fingerprint", report.fingerprint),
    ]
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows if value
    )
    return f'<table class="facts">{cells}</table>\n{_dispositions(report)}'


def _dispositions(report: MergeReport) -> str:
    if not report.tensors:
        return ""
    counts = [0] * len(report.dispositions)
    for tensor in report.tensors:
        counts[tensor.disposition] += 1
    rows = "".join(
        f"<tr><td>{count}</td><td>{html.escape(_became(entry))}</td><td>{html.escape(entry.reason)}</td></tr>"
        for count, entry in zip(counts, report.dispositions, strict=True)
    )
    head = "<tr><th>tensors</th><th>became</th><th>because</th></tr>"
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _became(disposition: Disposition) -> str:
    calibration = disposition.calibration
    done = f"merged by {disposition.method}" if disposition.method else disposition.kind
    return f"{done}, calibrated by {calibration['method']}" if calibration else done
