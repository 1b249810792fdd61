"""Two merges side by side: their figures, scores, gamma by kind of module, and how their recipes differ."""

from __future__ import annotations

import difflib
import html
import math
from collections.abc import Iterable, Iterator

import yaml

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.sections.names import breakable
from svc_dist.report.summary import INFLATED, Summary, figure, minutes, percent
from svc_dist.run_folder.report import MergeReport

Row = tuple[str, str, str]  # what, in this merge, in the other


def compared(this: Diagnosis, other: Diagnosis, names: tuple[str, str]) -> str:
    """The section's HTML. ``names``: of the two merges."""
    rows = [*figures(this, other), *scores(this.report, other.report)]
    text = f"{_table(('', *names), rows)}\n<p>{html.escape(same_bytes(this.report, other.report))}</p>\n"
    if kinds := list(gammas(this, other)):
        text += f"<h3>Gamma by kind of module</h3>\n{_table(('kind', *names), kinds)}\n"
    changes = "\n".join(recipe_changes(this.report, other.report))
    if not changes:
        return f"{text}<p>The recipes are equal.</p>"
    said = "The lines of the recipes that differ: - of the other merge, + of this one."
    return f"{text}<h3>Recipes</h3>\n<p>{said}</p>\n<pre>{html.escape(changes)}</pre>"


def figures(this: Diagnosis, other: Diagnosis) -> Iterator[Row]:
    """The figures that stand on top of the pages of both, and what made them."""
    a, b = Summary.of(this), Summary.of(other)
    yield "experts", ", ".join(this.experts), ", ".join(other.experts)
    yield "method", how(this.report), how(other.report)
    yield "times counted by the plain sum", figure(a.times), figure(b.times)
    yield f"matrices above {INFLATED:g} times", percent(a.share_inflated), percent(b.share_inflated)
    yield "times counted before calibration", figure(a.merged_times), figure(b.merged_times)
    changes = [(math.nan, math.nan) if one.effect is None else (one.effect.change, one.effect.growth) for one in (a, b)]
    yield "change of the deltas by calibration", percent(changes[0][0]), percent(changes[1][0])
    yield "their size after calibration", figure(changes[0][1]), figure(changes[1][1])
    yield "minutes", minutes(a.seconds), minutes(b.seconds)


def scores(this: MergeReport, other: MergeReport) -> Iterator[Row]:
    """The scores that either merge has."""
    found = [
        {(one.name, name): value for one in report.evaluations for name, value in one.metrics.items()}
        for report in (this, other)
    ]
    for key in dict.fromkeys([*found[0], *found[1]]):
        values = [f"{one[key]:.6g}" if key in one else "–" for one in found]
        yield f"score: {key[0]}, {key[1]}", values[0], values[1]


def gammas(this: Diagnosis, other: Diagnosis) -> Iterator[Row]:
    """The mean gamma by kind of module, where either merge is calibrated."""
    kinds = dict.fromkeys(one.kind(matrix.name) for one in (this, other) for matrix in one.calibrated)
    for kind in kinds:
        means = [one.gamma([m for m in one.calibrated if one.kind(m.name) == kind]) for one in (this, other)]
        yield kind, figure(means[0]), figure(means[1])


def same_bytes(this: MergeReport, other: MergeReport) -> str:
    """How much of the two models is the same, by the checksums of their ranges."""
    found = [{(r.shard, r.start, r.end): r.checksum for r in one.ranges} for one in (this, other)]
    if not found[0] or found[0].keys() != found[1].keys():
        return "The models are cut into different ranges: svc-dist diff compares their tensors."
    total = sum(end - start for _, start, end in found[0])
    same = sum(place[2] - place[1] for place, checksum in found[0].items() if found[1][place] == checksum)
    if same == total:
        return "The models are the same to the byte."
    return f"{percent(same / total)} of the models' bytes lie in ranges that are the same in both."


def recipe_changes(this: MergeReport, other: MergeReport) -> list[str]:
    """The lines that differ between the recipes."""
    before, after = (
        yaml.safe_dump(one.recipe, sort_keys=False, allow_unicode=True).split("\n") for one in (other, this)
    )
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    return [line for line in lines if not line.startswith("@@")]


def how(report: MergeReport) -> str:
    """The methods and calibrations of a merge."""
    what = ", ".join(sorted({entry.method for entry in report.dispositions if entry.method}))
    calibrations = sorted({entry.calibration["method"] for entry in report.dispositions if entry.calibration})
    return f"{what}, calibrated by {' and '.join(calibrations)}" if calibrations else what


def _table(head: tuple[str, str, str], rows: Iterable[Row]) -> str:
    titles = "".join(f"<th>{breakable(name)}</th>" for name in head)
    lines = []
    for what, *values in rows:
        marked = [f"<strong>{breakable(one)}</strong>" if values[0] != values[1] else breakable(one) for one in values]
        lines.append(f"<tr><td>{breakable(what)}</td>{''.join(f'<td>{one}</td>' for one in marked)}</tr>\n")
    return f'<div class="scroll"><table class="rows"><tr>{titles}</tr>\n{"".join(lines)}</table></div>'
