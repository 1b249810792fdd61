"""What plots of matplotlib share: names as text, and figures as SVG. They change no global state of matplotlib."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from svc_dist.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plain(name: str) -> str:
    """A name as the text of a plot: harmless, and without mathematics."""
    return printable(name).replace("$", r"\$")


def svg(figure: Figure) -> str:
    """A figure as reproducible SVG text."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "svc-dist", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    content = text.getvalue()[text.getvalue().index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", content, count=1, flags=re.DOTALL)
