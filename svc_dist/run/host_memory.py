"""How much memory units may use here: what the machine has available, within the limits of its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_UNKNOWN = 8 * 2**30  # bytes, where the system does not say
_V2 = (("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))
_V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new process could use: the least of what the machine and each control group around it allow.

    Pages that cache files count as available, active ones too: the kernel reclaims them before it kills, and counts
    them so in ``MemAvailable``. ``root``: where ``/proc`` and the control groups are.
    """
    available = [_machine(root)]
    for folder, (limits, usage, cached) in _groups(root):
        used, fields = _number(folder / usage), _fields(folder / "memory.stat")
        if used is None:
            continue
        used = max(0, used - sum(fields.get(name, 0) for name in cached))
        found = (_number(folder / name) for name in limits)
        available += [max(0, limit - used) for limit in found if limit is not None]
    return min(available)


def _machine(root: Path) -> int:
    kilobytes = _fields(root / "proc/meminfo").get("MemAvailable:")
    return _UNKNOWN if kilobytes is None else kilobytes * 1024


def _groups(root: Path) -> Iterator[tuple[Path, tuple[tuple[str, ...], str, tuple[str, ...]]]]:
    """The folders of this process's control groups of memory, from its own upwards, with the names of their files."""
    paths = {}  # of this process's group, by version
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[2] = path
        elif "memory" in controllers.split(","):
            paths[1] = path
    for line in filter(None, _lines(root / "proc/self/mountinfo")):
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ")[:3]
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "memory" in options.split(",") else 0
        if version not in paths:
            continue
        top, point = (name.replace("\\040", " ") for name in mount.split(" ")[3:5])
        own = PurePosixPath(paths[version])
        inside = own.relative_to(top) if own.is_relative_to(top) else PurePosixPath()  # else the mount is of this group
        if ".." in inside.parts:
            inside = PurePosixPath()
        folder = root / point.lstrip("/")
        for level in (inside, *inside.parents) if inside.parts else (inside,):
            yield folder / level, _V2 if version == 2 else _V1


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    """The number that a file holds; None where it is missing or says ``max``."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else None


def _fields(file: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    words = [line.split() for line in _lines(file)]
    return {entry[0]: int(entry[1]) for entry in words if len(entry) > 1 and entry[1].isdecimal()}
