"""The command line in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forked import Forked, forked


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


#: The fixture ``run``: a command in this process.
Run = Callable[..., Ended]


PROGRAM = (sys.executable, "-m", "svc_dist")


def command(*arguments: str | Path) -> list[str]:
    return [*PROGRAM, *map(str, arguments)]


def environment(home: Path) -> dict[str, str]:
    """The environment with Ray's files under ``home``, and no token for Ray but what lies there."""
    (home / "ray").mkdir(parents=True, exist_ok=True)
    return {
        **{name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"},
        "HOME": str(home),
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }


@contextmanager
def short_home() -> Iterator[Path]:
    """A home for Ray, whose sockets need a path shorter than pytest's folders have."""
    home = Path(tempfile.mkdtemp(prefix="sd"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def run(*arguments: str | Path, home: Path, expect: int = 0) -> Ended:
    """Run a command to its end and hold its exit code."""
    with forked(arguments, environment(home)) as process:
        out, err = process.communicate()
    assert process.returncode == expect, f"exit {process.returncode}, not {expect}\n{out}\n{err}"
    return Ended(process.returncode, out, err)


def started(*arguments: str | Path, home: Path) -> AbstractContextManager[Forked]:
    """A command that runs alongside; killed at the end, if it is there still."""
    return forked(arguments, environment(home))


def shard_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each shard and of the index."""
    files = sorted(folder.glob("model*"))
    assert files, f"no shards in {folder}"
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def tree_hash(folder: Path) -> str:
    """One hash of every name and byte under a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        digest.update(str(file.relative_to(folder)).encode())
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def write_recipe(file: Path, recipe: dict[str, Any]) -> Path:
    """A recipe file (JSON is YAML)."""
    file.write_text(json.dumps(recipe, indent=1))
    return file
