"""For the built site: links to files of the repository that are no pages; the schema of recipes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(((?!https?:|mailto:|#)[^)#]*)(#[^)]*)?\)")
_ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Turn links that leave ``docs/`` into links to the repository, whose address is ``extra.repository``: mkdocs's own
    ``repo_url`` would have readers' browsers ask another site. Raises FileNotFoundError if there is no such file."""
    folder = (_ROOT / "docs" / page.file.src_uri).parent
    if page.file.src_uri == "cluster.md":
        folder = _ROOT / "cluster"  # the page includes cluster/README.md

    def outside(match: re.Match[str]) -> str:
        text, target = match[1], (folder / match[2]).resolve()
        if target.is_relative_to(_ROOT / "docs"):
            return match[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {match[2]}, which does not exist")
        kind = "tree" if target.is_dir() else "blob"
        return f"[{text}]({config['extra']['repository']}/{kind}/main/{target.relative_to(_ROOT)}{match[3] or ''})"

    return _LINK.sub(outside, markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Publish the schema of recipes."""
    schema = _ROOT / "svc_dist" / "recipe" / "writing" / "recipe.schema.json"
    shutil.copy(schema, Path(config["site_dir"]) / "reference" / schema.name)
