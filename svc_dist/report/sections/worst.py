"""The matrices that the plain sum over-counts the most."""

from __future__ import annotations

import math

from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.sections.names import breakable
from svc_dist.report.sections.style import shade
from svc_dist.report.summary import figure

MOST = 10


def worst(diagnosis: Diagnosis) -> list[str]:
    """Up to ten compared tensors, those that are counted the most often first."""
    return sorted(diagnosis.times, key=lambda name: (-diagnosis.times[name], name))[:MOST]


def table(diagnosis: Diagnosis) -> str:
    """These tensors, with the mean cosine of the experts and, where calibrated, the mean gamma."""
    gammas: dict[str, list[float]] = {}
    for matrix in diagnosis.calibrated:
        gammas.setdefault(matrix.tensor, []).append(float(matrix.summary["gamma_by_energy"]))
    names = worst(diagnosis)
    if not names:
        return ""
    rows = []
    for name in names:
        times, cosine = diagnosis.times[name], diagnosis.mean_cosine([name])
        found = gammas.get(name)
        gamma = f'<td class="n">{figure(sum(found) / len(found) if found else math.nan)}</td>' if gammas else ""
        rows.append(
            f'<tr><td>{breakable(name)}</td><td class="n {shade(times)}">{figure(times)}</td>'
            f'<td class="n">{figure(cosine)}</td>{gamma}</tr>\n'
        )
    head = '<tr><th>tensor</th><th class="n">times</th><th class="n">cosine</th>'
    head += '<th class="n">gamma</th></tr>\n' if gammas else "</tr>\n"
    return f'<div class="scroll"><table class="rows">{head}{"".join(rows)}</table></div>'
