"""Where units run. An executor is a module here and a line in the table, or an entry point of an installed package."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from svc_dist.errors import require_choice

GROUP = "svc_dist.executors"  #: the entry points of packages that add an executor
_BUILT_IN = {
    "inline": "svc_dist.run.executors.inline:InlineExecutor",
    "ray": "svc_dist.run.executors.ray:RayExecutor",
}


def added_executors() -> tuple[str, ...]:
    """The names of the executors that installed packages add."""
    return tuple(sorted(entry_points(group=GROUP).names))


def find_executor(name: str) -> EntryPoint:
    """The executor with this name, not yet imported. Raises RecipeError naming those that exist."""
    if name in _BUILT_IN:
        return EntryPoint(name, _BUILT_IN[name], GROUP)
    require_choice("executor", name, ("auto", *_BUILT_IN, *added_executors()))
    return entry_points(group=GROUP)[name]
