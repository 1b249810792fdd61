"""Imports follow one spine, without circles, and the command line starts without the heavy libraries."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from itertools import chain
from pathlib import Path

import svc_dist

ROOT = Path(svc_dist.__file__).parent

#: The rooms from the top down: a module imports its own room and rooms below it. Rooms of one line do not import each
#: other.
SPINE = (
    ("__main__",),
    ("cli",),
    ("demo",),
    ("api",),
    ("scoring",),
    ("checks", "forecast", "report"),
    ("run",),
    ("run_folder",),
    ("plan",),
    ("recipe",),
    ("methods", "checkpoint"),
    ("linalg", "storage"),
    ("tensor_names", "sizes", "notebook"),
    ("errors",),
)
LEVEL = {room: level for level, rooms in enumerate(SPINE) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module but the package's face, which only hands names on."""
    files = {".".join(file.relative_to(ROOT.parent).with_suffix("").parts): file for file in sorted(ROOT.rglob("*.py"))}
    return {name.removesuffix(".__init__"): file for name, file in files.items() if name != "svc_dist.__init__"}


@functools.cache
def imported(file: Path) -> set[str]:
    """What a file imports, anywhere in it: modules, and names of modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def arrows() -> dict[str, list[str]]:
    """For each module the modules of this package that it imports."""
    known = modules()
    return {name: sorted(imported(file) & set(known) - {name}) for name, file in known.items()}


def test_every_room_has_its_place_on_the_spine() -> None:
    rooms = {name.split(".")[1] for name in modules()}
    assert rooms == set(LEVEL)


def test_nothing_imports_upward() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        for other in others
        if (room := name.split(".")[1]) != (its := other.split(".")[1]) and LEVEL[room] >= LEVEL[its]
    ]
    assert not upward


def test_there_are_no_circles() -> None:
    left = {name: set(others) for name, others in arrows().items()}
    while ready := [name for name, others in left.items() if not others & set(left)]:
        for name in ready:
            del left[name]
    assert not left, f"these import each other in a circle: {sorted(left)}"


def test_only_the_ray_executor_imports_ray() -> None:
    users = [
        file.relative_to(ROOT)
        for file in modules().values()
        if any(name.split(".")[0] == "ray" for name in imported(file))
    ]
    assert {str(user) for user in users} == {"run/executors/ray.py", "run/executors/ray_process.py"}


def test_the_root_holds_the_door_and_little_else() -> None:
    loose = {file.stem for file in ROOT.glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= 4
    folders = [folder for folder in chain([ROOT], ROOT.rglob("*")) if folder.is_dir() and folder.name != "__pycache__"]
    counts = {folder: len([file for file in folder.glob("*.py") if file.stem != "__init__"]) for folder in folders}
    assert {str(folder): count for folder, count in counts.items() if count > 12} == {}


def test_modules_can_be_read_whole() -> None:
    lengths = {name: len(file.read_text().splitlines()) for name, file in modules().items()}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_help_and_planning_load_neither_torch_nor_ray() -> None:
    script = (
        "import sys, svc_dist.cli.process, svc_dist.api, svc_dist.plan.make; print({'torch', 'ray'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
