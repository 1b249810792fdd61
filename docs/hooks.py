"""For the built site: links to files of the repository that are no pages become their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(((?!https?:|mailto:|#)[^)#]*)(#[^)]*)?\)")
_ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link that leaves ``docs/`` must lead to a file that is there."""
    folder = (_ROOT / "docs" / page.file.src_uri).parent
    if page.file.src_uri == "cluster.md":
        folder = _ROOT / "cluster"  # whose page this is

    def outside(match: re.Match[str]) -> str:
        text, target = match[1], (folder / match[2]).resolve()
        if target.is_relative_to(_ROOT / "docs"):
            return match[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {match[2]}, which is not there")
        return text if text.startswith("`") else f"{text} (`{target.relative_to(_ROOT)}`)"

    return _LINK.sub(outside, markdown)
