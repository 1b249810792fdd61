"""Imports point one way, and the command line starts without the heavy libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import svc_dist

ROOT = Path(svc_dist.__file__).parent

#: What the modules of each room must not import.
FORBIDDEN = {
    "checkpoint": [
        "svc_dist.methods",
        "svc_dist.plan",
        "svc_dist.recipe",
        "svc_dist.run",
        "svc_dist.api",
        "svc_dist.cli",
    ],
    "methods": [
        "svc_dist.checkpoint",
        "svc_dist.plan",
        "svc_dist.recipe",
        "svc_dist.run",
        "svc_dist.api",
        "svc_dist.cli",
    ],
    "schema.py": ["svc_dist.choices", "svc_dist.recipe", "svc_dist.plan", "svc_dist.run"],
    "settings.py": ["svc_dist.schema", "svc_dist.plan", "svc_dist.run"],
    "dialect.py": ["svc_dist.choices", "svc_dist.recipe", "svc_dist.plan", "svc_dist.run"],
    "companions.py": ["svc_dist.recipe", "svc_dist.plan", "svc_dist.run"],
    "renames.py": ["svc_dist.choices", "svc_dist.recipe", "svc_dist.plan", "svc_dist.run"],
    "choices.py": ["svc_dist.recipe", "svc_dist.plan", "svc_dist.run"],
    "recipe.py": ["svc_dist.plan", "svc_dist.run", "svc_dist.api", "svc_dist.cli"],
    "inputs.py": ["svc_dist.methods", "svc_dist.recipe", "svc_dist.plan", "svc_dist.run"],
    "disposition.py": ["svc_dist.plan", "svc_dist.run", "svc_dist.api", "svc_dist.cli"],
    "unit_costs.py": ["svc_dist.run", "svc_dist.api", "svc_dist.cli"],
    "plan.py": ["svc_dist.run", "svc_dist.api", "svc_dist.cli"],
    "run": ["svc_dist.report", "svc_dist.api", "svc_dist.cli"],
    "report": ["svc_dist.run", "svc_dist.plan", "svc_dist.api", "svc_dist.cli"],
    "api.py": ["svc_dist.cli"],
}


def imports_of(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for room, forbidden in FORBIDDEN.items():
        files = [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py"))
        assert files
        for file in files:
            for name in imports_of(file):
                wrong += [
                    f"{file.name} imports {name}" for bad in forbidden if name == bad or name.startswith(bad + ".")
                ]
    assert not wrong


def test_only_the_ray_executor_imports_ray() -> None:
    users = [
        file.name for file in sorted(ROOT.rglob("*.py")) if any(n.split(".")[0] == "ray" for n in imports_of(file))
    ]
    assert users == ["ray_graph.py"]


def test_help_and_planning_load_neither_torch_nor_ray() -> None:
    script = "import sys, svc_dist.cli, svc_dist.api, svc_dist.plan; print({'torch', 'ray'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
