"""A report as one self-contained HTML page."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import yaml

from svc_dist.errors import DamagedInputError
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.report import figures
from svc_dist.report.diagnosis import Diagnosis, Matrix
from svc_dist.report.differences import difference_lines
from svc_dist.report.page_file import mark
from svc_dist.report.verdict import verdict
from svc_dist.run_folder.report import MergeReport
from svc_dist.run_folder.unchanged import passed
from svc_dist.sizes import format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPECTRA = 6

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22303c; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dde3; }
svg { max-width: 100%; height: auto; } pre { background: #f3f6f8; padding: .8rem; overflow: auto; font-size: 13px; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
.bar { display: flex; height: 1.4rem; } .stages span { margin-right: 1.2rem; }
.stages em { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; }
.bar em, .stages span em { background: #2a6f97; }
.bar em:nth-child(2), .stages span:nth-child(2) em { background: #e07a2f; }
.bar em:nth-child(3), .stages span:nth-child(3) em { background: #3a8f5c; }
.bar em:nth-child(n+4), .stages span:nth-child(n+4) em { background: #7a5ea8; }
.verdict { background: #eef4f8; padding: .7rem 1rem; border-left: 4px solid #2a6f97; }
"""


def render(report: MergeReport, title: str) -> str:
    """The page of a merge's report or of an inspection. Sections without data are missing or say so.

    Raises DamagedInputError for a report whose figures are none.
    """
    try:
        return _page(report, title)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of whatever was edited
        raise DamagedInputError(
            f"merge_report.json holds figures that cannot be drawn: {error!r}", "restore the file that the merge wrote"
        ) from None


def _page(report: MergeReport, title: str) -> str:
    diagnosis = Diagnosis(report)
    recipe = yaml.safe_dump(report.recipe, sort_keys=False, allow_unicode=True)
    sections = [
        _evaluations(report),
        _overcounting(diagnosis),
        _spectra(diagnosis),
        _plot(
            "Cross-expert overlap",
            "<p>The cosines between the experts' task deltas (estimated from a sample of their elements).</p>",
            figures.overlap(diagnosis),
        ),
        _plot("Kept ranks", "<p>Directions that the merge method kept.</p>", figures.rank_map(diagnosis)),
        _plot("Delta norms", "<p>The size of each expert's delta relative to the base.</p>", figures.norms(diagnosis)),
        _times(report.unit_seconds),
        _differences(diagnosis),
        _provenance(report),
        _section("Recipe", f"<pre>{html.escape(recipe)}</pre>"),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{mark(report)}\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _section(title: str, text: str, figure: Figure | None = None) -> str:
    drawn = figures.svg(figure) if figure is not None else ""
    return f"<h2>{html.escape(title)}</h2>\n{text}\n{drawn}"


def _plot(title: str, text: str, figure: Figure | None) -> str:
    return "" if figure is None else _section(title, text, figure)


def _times(seconds: dict[str, float]) -> str:
    """The seconds of all units by stage, as a bar."""
    known = ("read", "compute", "write")
    order = [*(name for name in known if name in seconds), *sorted(name for name in seconds if name not in known)]
    if not sum(seconds.values()):
        return ""
    shares = "".join(f'<em style="flex: {seconds[name]:.6g}"></em>' for name in order)
    names = "".join(f"<span><em></em>{html.escape(name)} {seconds[name]:.1f} s</span>" for name in order)
    text = f'<p>Seconds of all units.</p>\n<div class="bar">{shares}</div>\n<p class="stages">{names}</p>'
    return _section("Where the time went", text)


def _overcounting(diagnosis: Diagnosis) -> str:
    said = f'<p class="verdict">{html.escape(verdict(diagnosis))}</p>\n'
    if not diagnosis.calibrated:
        return _section(
            "Over-counting",
            f"{said}<p><code>svc-dist inspect RECIPE</code> shows what calibration would do, without merging.</p>",
        )
    text = (
        f"{said}<p>Gamma is the factor by which SVC scaled a singular value of the merged delta: below 1 where a "
        "direction was counted more than once, above 1 where experts cancel each other or weights below 1 count it "
        "less than once. Each cell is the mean over the directions of its matrices, by energy.</p>"
    )
    return _section("Over-counting", text, figures.gamma_map(diagnosis))


def _evaluations(report: MergeReport) -> str:
    """What the commands under ``evaluate`` said of the model."""
    rows = [
        f"<tr><td>{html.escape(one.name)}</td><td>{html.escape(name)}</td><td>{value:.6g}</td>"
        f"<td><code>{html.escape(one.command)}</code></td></tr>"
        for one in report.evaluations
        for name, value in one.metrics.items()
    ]
    head = "<tr><th>evaluation</th><th>metric</th><th>value</th><th>command</th></tr>"
    return _section("Scores", f"<table>{head}{''.join(rows)}</table>") if rows else ""


def _differences(diagnosis: Diagnosis) -> str:
    """How far experts are from the base, where it was measured exactly, and what a condition let through."""
    table = "\n".join(difference_lines(diagnosis))
    if not table:
        return ""
    report = diagnosis.report
    said = passed([bool(one["merged"]) for one in report.only_where]) if report.ranges else ""
    text = (
        f"<p>{html.escape(said)}</p>\n<p>How far the farthest expert of each tensor is from the base: the norm of its "
        "difference, divided by the base's norm. <code>only_where: {relative_difference: ...}</code> merges what is "
        f"farther than a threshold.</p>\n<pre>{html.escape(table)}</pre>"
    )
    return _section("Difference from the base", text)


def _spectra(diagnosis: Diagnosis) -> str:
    chosen = chosen_matrices(diagnosis)
    if not chosen:
        return ""
    some = "the matrices that calibration changed most and least" if diagnosis.calibrated else "some matrices"
    return _section(
        "Spectra", f"<p>The leading singular values of the merged delta in {some}.</p>", figures.spectra(chosen)
    )


def chosen_matrices(diagnosis: Diagnosis, count: int = _SPECTRA) -> list[Matrix]:
    """Matrices for plots: half with the smallest gamma, half with the largest; without gammas, evenly spaced ones."""
    known = [matrix for matrix in diagnosis.matrices if matrix.summary.get("sigma")]
    if len(known) <= count:
        return known
    calibrated = [matrix for matrix in known if "gamma_by_energy" in matrix.summary]
    ranked = sorted(calibrated, key=lambda matrix: float(matrix.summary["gamma_by_energy"]))
    if len(ranked) >= count:
        return [*ranked[: count // 2], *ranked[-(count - count // 2) :]]
    return [known[number * len(known) // count] for number in range(count)]


def _provenance(report: MergeReport) -> str:
    base, *experts = report.models
    rows = [("base", base.name)]
    rows += [("expert" if number == 0 else "", model.name) for number, model in enumerate(experts)]
    rows += [
        ("read", format_size(report.bytes_in)),
        ("written", format_size(report.bytes_out) if report.ranges else ""),
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
    return _section("Provenance", f"<table>{cells}</table>{_dispositions(report)}")


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
    return f"<table><tr><th>tensors</th><th>became</th><th>because</th></tr>{rows}</table>"


def _became(disposition: Disposition) -> str:
    calibration = disposition.calibration
    done = f"merged by {disposition.method}" if disposition.method else disposition.kind
    return f"{done}, calibrated by {calibration['method']}" if calibration else done
