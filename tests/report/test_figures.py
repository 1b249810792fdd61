"""Plots as SVG: the same text every time, and matplotlib stays as it was."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

from svc_dist.report.figures import plain, svg


def drawn() -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([1, 2, 3], [3.0, 1.0, 2.0])
    return figure


def test_svg_is_the_same_every_time_and_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    texts = [svg(drawn()) for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("<svg")
    assert "<metadata>" not in texts[0]
    assert dict(matplotlib.rcParams) == before


def test_a_name_is_plain_text() -> None:
    assert plain("a$b\n") == r"a\$b\n"
