"""How far experts overlap: cosines in the order of their similarity, and what leaving one out would do."""

from __future__ import annotations

import math

from svc_dist.report.diagnosis import Array, Diagnosis
from svc_dist.report.sections.charts import Line, chart
from svc_dist.report.sections.names import breakable
from svc_dist.report.sections.style import shade
from svc_dist.report.similarity import coinciding, order
from svc_dist.report.summary import figure

_SHADES = ((0.9, "w5"), (0.5, "w4"), (0.3, "w3"), (0.1, "w2"), (0.05, "w1"), (-0.05, "w0"), (-0.3, "c1"), (-1.1, "c3"))


def overlap(diagnosis: Diagnosis) -> str:
    """The section's HTML; empty for fewer than two experts, or where nothing was compared."""
    names = [breakable(name) for name in diagnosis.experts]
    cosines = diagnosis.overlap(diagnosis.compared)
    if len(names) < 2 or not cosines.any():
        return ""
    chosen = order(cosines)
    layers = diagnosis.by_layer()
    compared = set(diagnosis.compared)
    means = [diagnosis.mean_cosine(name for name in tensors if name in compared) for tensors in layers.values()]
    lines = chart("mean cosine between experts, by layer", [Line(list(layers), means)], "layer") if layers else ""
    return (
        "<p>The cosines between the experts' task deltas (estimated from a sample of their elements), experts ordered "
        "by similarity: 1 where two learned the same, 0 where they share nothing.</p>\n"
        f"{_table(names, cosines, chosen)}{_left_out(diagnosis, names, chosen)}"
        f'<div class="charts">{lines}</div>'
    )


def _table(names: list[str], cosines: Array, chosen: list[int]) -> str:
    head = "".join(f'<th scope="col">{names[number]}</th>' for number in chosen)
    rows = []
    for row in chosen:
        cells = "".join("<td>·</td>" if row == column else _cosine(float(cosines[row, column])) for column in chosen)
        rows.append(f'<tr><th scope="row">{names[row]}</th>{cells}</tr>\n')
    body = f'<tr><th class="corner"></th>{head}</tr>\n{"".join(rows)}'
    return f'<div class="scroll"><table class="map">{body}</table></div>\n'


def _cosine(value: float) -> str:
    name = next((name for least, name in _SHADES if value >= least), "c3")
    return f'<td class="{name}">{value:.2f}</td>'


def _left_out(diagnosis: Diagnosis, names: list[str], chosen: list[int]) -> str:
    """For each expert, how often the others are counted without it. The hint: who nearly coincides with another."""
    times, without = diagnosis.times_counted(), diagnosis.times_without()
    pair = coinciding(diagnosis)
    hint = ""
    if pair is not None:
        hint = (
            f'<p class="verdict">{names[pair.first]} and {names[pair.second]} nearly coincide (cosine '
            f"{pair.cosine:.2f}): leave {names[pair.first]} out.</p>\n"
        )
    if len(names) < 3 or math.isnan(times):
        return hint
    rows = "".join(
        f'<tr><th scope="row">{names[number]}</th><td class="n {shade(without[number])}">{figure(without[number])}</td>'
        f'<td class="n">{without[number] - times:+.2f}</td></tr>\n'
        for number in sorted(chosen, key=lambda number: without[number])
    )
    head = '<tr><th>leave out</th><th class="n">times counted</th><th class="n">change</th></tr>\n'
    return (
        f"{hint}<h3>Leave one out</h3>\n<p>How many times the plain sum of the other experts counts what they "
        f"learned; with all, {times:.2f}. Without the expert of the first row it is the least.</p>\n"
        f'<div class="scroll"><table class="rows">{head}{rows}</table></div>\n'
    )
