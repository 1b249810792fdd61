"""Names as HTML."""

from __future__ import annotations

import html

from svc_dist.errors import printable


def breakable(name: str) -> str:
    """A tensor's or an expert's name, harmless, that a narrow page breaks after its dots and slashes."""
    text = html.escape(printable(name))
    return text.replace(".", ".<wbr>").replace("/", "/<wbr>")
