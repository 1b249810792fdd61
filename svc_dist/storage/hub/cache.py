"""The local cache of a hub: snapshots of repositories, as huggingface_hub and transformers leave them.

``models--owner--name/refs/main`` holds a commit, and ``snapshots/<commit>/`` its files, which are links into ``blobs``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_ID = re.compile(rf"(?P<repository>{_PART}/{_PART})(?:@(?P<revision>[^@+\s]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
_OF_SEVERAL = re.compile(r"(.+)-\d+-of-(?!0*1\.)\d+\.safetensors")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")


@dataclass(frozen=True)
class HubId:
    """``owner/name`` or ``owner/name@revision``."""

    repository: str
    revision: str | None

    @property
    def url(self) -> str:
        return f"hf://{self}"

    def at(self, commit: str) -> HubId:
        return HubId(self.repository, commit)

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def parse_hub_id(text: str) -> HubId | None:
    """The hub id that a recipe or command names; None for what can only be a path or a URL."""
    match = _ID.fullmatch(text)
    if match is None or ".." in match["repository"] or "--" in match["repository"] or len(match["repository"]) > 96:
        return None
    return HubId(match["repository"], match["revision"])


@dataclass(frozen=True)
class Snapshot:
    """A repository's files of one commit in the cache. ``missing``: those that it lacks to be whole."""

    folder: Path
    missing: tuple[str, ...] = ()

    @property
    def commit(self) -> str:
        return self.folder.name


def cache_folder() -> Path:
    """Where the cache lies, by the environment that huggingface_hub reads."""
    env = os.environ
    home = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    named = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(named)).expanduser()


def find_snapshot(hub_id: HubId, tokenizer: bool = False) -> Snapshot | None:
    """The snapshot of a repository's revision (default: main) in the cache, whole or not; None where there is none.

    ``tokenizer``: only the tokenizer's files are needed.
    """
    folder = cache_folder() / f"models--{hub_id.repository.replace('/', '--')}"
    commit = revision = hub_id.revision or "main"
    try:
        reference = folder / "refs" / revision
        if ".." not in revision and reference.is_file():
            commit = reference.read_text(encoding="utf-8").strip()
        snapshot = folder / "snapshots" / commit
        if not COMMIT.fullmatch(commit) or not snapshot.is_dir():
            return None
        names = sorted(entry.name for entry in snapshot.iterdir())
        there = [name for name in names if (snapshot / name).is_file()]  # not a link whose blob is gone
        missing = _missing_tokenizer(there) if tokenizer else _missing(snapshot, names, there)
    except (OSError, ValueError):  # a cache of another user, or damaged: as if it were not there
        return None
    return Snapshot(snapshot, tuple(missing))


def _missing_tokenizer(there: Sequence[str]) -> list[str]:
    return [] if set(_TOKENIZERS) & set(there) else [_TOKENIZERS[0]]


def _missing(folder: Path, names: Sequence[str], there: Sequence[str]) -> list[str]:
    """The files that a model or adapter in a snapshot lacks."""
    gone = [name for name in names if name not in there and not (folder / name).is_dir()]
    needed = []
    for index in (name for name in there if name.endswith(".safetensors.index.json")):
        needed += sorted(set(json.loads((folder / index).read_bytes())["weight_map"].values()))
    weights = [name for name in there if name.endswith(".safetensors")]
    if not needed:
        stems = {match[1] for name in weights if (match := _OF_SEVERAL.fullmatch(name))}
        needed = [f"{stem}.safetensors.index.json" for stem in sorted(stems)]
        if not weights and not any(name.endswith((".bin", ".pt", ".pth", ".gguf")) for name in there):
            needed = ["adapter_model.safetensors" if "adapter_config.json" in there else "model.safetensors"]
    return list(dict.fromkeys([*gone, *(name for name in needed if not (folder / name).is_file())]))
