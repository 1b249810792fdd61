"""For the built site: links to files of the repository that are no pages; code that breaks at spaces; the schema."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(((?!https?:|mailto:|#)[^)#]*)(#[^)]*)?\)")
#: Code in a line of text, and a word in it that a browser would break after its hyphen.
_CODE, _HYPHENATED = re.compile(r"(?<!<pre>)<code>([^<>\n]+)</code>"), re.compile(r"[^\s&;]*-[^\s&;]*")
_WIDEST = 32  # letters of a word that fits onto a phone
_ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Turn links that leave ``docs/`` into links to the repository, whose address is ``extra.repository``: mkdocs's own
    ``repo_url`` would have readers' browsers ask another site. Raises FileNotFoundError if there is no such file."""
    at = folder = (_ROOT / "docs" / page.file.src_uri).parent
    if page.file.src_uri == "cluster.md":
        folder = _ROOT / "cluster"
        markdown = (folder / "README.md").read_text(encoding="utf-8")  # what the page includes

    def outside(match: re.Match[str]) -> str:
        text, target = match[1], (folder / match[2]).resolve()
        if target == _ROOT / "cluster" / "README.md":
            target = _ROOT / "docs" / "cluster.md"
        if target.is_relative_to(_ROOT / "docs"):
            return f"[{text}]({os.path.relpath(target, at)}{match[3] or ''})"
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {match[2]}, which does not exist")
        kind = "tree" if target.is_dir() else "blob"
        return f"[{text}]({config['extra']['repository']}/{kind}/main/{target.relative_to(_ROOT)}{match[3] or ''})"

    return _LINK.sub(outside, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Keep an option or a key in one line: copied text stays as it is."""

    def whole(match: re.Match[str]) -> str:
        return match[0] if len(match[0]) > _WIDEST else f'<span class="word">{match[0]}</span>'

    return _CODE.sub(lambda match: f"<code>{_HYPHENATED.sub(whole, match[1])}</code>", html)


def on_post_build(config: Any, **_: Any) -> None:
    """Publish the schema of recipes."""
    schema = _ROOT / "svc_dist" / "recipe" / "writing" / "recipe.schema.json"
    shutil.copy(schema, Path(config["site_dir"]) / "reference" / schema.name)
