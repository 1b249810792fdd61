"""For the built site: names of files in place of links to files that are no pages; the schema of recipes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(((?!https?:|mailto:|#)[^)#]*)(#[^)]*)?\)")
_ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links that leave ``docs/``. Raises FileNotFoundError if the file of such a link does not exist."""
    folder = (_ROOT / "docs" / page.file.src_uri).parent
    if page.file.src_uri == "cluster.md":
        folder = _ROOT / "cluster"  # the page includes cluster/README.md

    def outside(match: re.Match[str]) -> str:
        text, target = match[1], (folder / match[2]).resolve()
        if target.is_relative_to(_ROOT / "docs"):
            return match[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {match[2]}, which does not exist")
        return text if text.startswith("`") else f"{text} (`{target.relative_to(_ROOT)}`)"

    return _LINK.sub(outside, markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Publish the schema of recipes."""
    schema = _ROOT / "svc_dist" / "recipe" / "writing" / "recipe.schema.json"
    shutil.copy(schema, Path(config["site_dir"]) / "reference" / schema.name)
