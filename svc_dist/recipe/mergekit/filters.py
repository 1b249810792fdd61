"""Filters of parameters that are part of no tensor's name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from svc_dist.errors import Warned, warned

_PATTERN = re.compile(r"[*+?()\[\]{}|^$\\]")
_PLAIN = re.compile(r"\w[\w.]*")


def unmatched(filters: Sequence[tuple[str, str]], names: Sequence[str]) -> Iterator[Warned]:
    """A warning about the filters that match nothing, by their form. ``filters``: the line and the text of each."""
    nothing = [(where, text) for where, text in filters if not any(text in name for name in names)]
    for pattern in (True, False):
        found = [(where, text) for where, text in nothing if bool(_PATTERN.search(text)) == pattern]
        if not found:
            continue
        more = len({where for where, _ in found}) - 1
        texts = list(dict.fromkeys(text for _, text in found))
        shown = ", ".join(map(repr, texts[:3])) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
        said = f"no tensor's name contains the filter{'s' if len(texts) > 1 else ''} {shown}"
        if pattern:
            plain = max(_PLAIN.findall(texts[0]) or ["mlp"], key=len).strip(".")
            said += f": a filter is a part of the name, not a pattern; write {plain!r}"
        yield warned("filter-matches-nothing", f"{found[0][0]}{f' and {more} more' if more else ''}: {said}")
