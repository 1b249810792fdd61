"""What to do next, with keys of a recipe to paste."""

from __future__ import annotations

import html

import yaml

from svc_dist.errors import printable
from svc_dist.report.advice import advice
from svc_dist.report.diagnosis import Diagnosis


def do_this(diagnosis: Diagnosis) -> str:
    """The section's HTML; empty where there is no evidence."""
    chosen = advice(diagnosis)
    if chosen is None:
        return ""
    said = f"<p>{html.escape(printable(chosen.text))}</p>"
    if chosen.command:
        return f"{said}\n<pre>{html.escape(chosen.command)}</pre>"
    if not chosen.keys:
        return said
    flow = None if any(isinstance(value, list | dict) for value in chosen.keys.values()) else False  # a line a key
    text = yaml.safe_dump(chosen.keys, sort_keys=False, allow_unicode=True, default_flow_style=flow)
    note = '<p class="soft">These keys take the place of the recipe\'s own.</p>'
    return f"{said}\n<pre>{html.escape(text.rstrip())}</pre>\n{note}"
