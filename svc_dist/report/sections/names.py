"""Names as HTML."""

from __future__ import annotations

import html
import re

from svc_dist.errors import printable

_BREAKS = re.compile(r"(?<!\d)[./]|[./](?!\d)")


def breakable(name: str) -> str:
    """A tensor's or an expert's name, harmless, broken by a narrow page after dots and slashes, not in a number."""
    return _BREAKS.sub(r"\g<0><wbr>", html.escape(printable(name)))
