"""The reference pages say what the code says, and every page of the site is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "reference" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "recipe.md", "errors.md", "exit-codes.md", "files.md", "python.md"])
def test_reference_pages_are_those_of_this_code(name: str) -> None:
    current = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert current == generator().PAGES[name](), "run: python docs/reference/generate.py"


def test_every_page_is_in_the_sites_navigation() -> None:
    def pages(entries: Any) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        parts = entries.values() if isinstance(entries, dict) else entries
        return [page for part in parts for page in pages(part)]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = sorted(str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md"))
    assert sorted(page for page in listed if not page.startswith("https:")) == there


def test_the_report_has_the_keys_that_its_page_lists(tmp_path: Path) -> None:
    import json

    import svc_dist
    from svc_dist.run_folder.report import REPORT_KEYS
    from tests.support.checkpoints import recipe_data, write_llamas

    svc_dist.merge(recipe_data(write_llamas(tmp_path / "models")), tmp_path / "out", executor="inline")
    assert list(json.loads((tmp_path / "out" / "merge_report.json").read_text())) == list(REPORT_KEYS)
