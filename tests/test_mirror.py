"""Tests mirror the package: a reader finds the tests of ``svc_dist/a/b.py`` in ``tests/a/test_b.py``."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_module_has_its_test_file_or_is_named_in_a_test_of_its_folder() -> None:
    missing = []
    for module in sorted(ROOT.glob("svc_dist/**/*.py")):
        path = module.relative_to(ROOT / "svc_dist")
        folder = ROOT / "tests" / path.parent
        if path.stem.startswith("__") or (folder / f"test_{path.stem}.py").exists():
            continue
        dotted = ".".join(["svc_dist", *path.with_suffix("").parts])
        named = re.compile(rf"\b{re.escape(dotted)}\b")
        if not any(named.search(test.read_text()) for test in folder.glob("test_*.py")):
            missing.append(f"{dotted}: write tests/{path.with_name(f'test_{path.name}')}")
    assert not missing, "modules without tests, or a docstring in a test of their folder that names them:\n  " + (
        "\n  ".join(missing)
    )
