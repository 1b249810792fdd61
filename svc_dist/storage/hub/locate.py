"""Where the model behind ``owner/name`` is: a folder here, a snapshot in the local cache, or the hub at one commit."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from svc_dist.errors import RecipeError, StorageError
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.hub.cache import HubId, Snapshot, cache_folder, find_snapshot, parse_hub_id
from svc_dist.storage.local import is_folder, is_there

_NEAR = 0.8  # likeness of two names of which one is probably a misspelling of the other
_SHOWN = 3


def locate(hub_id: HubId, path: Path, access: Access, where: str = "", tokenizer: bool = False) -> str:
    """The location of a hub id: its snapshot in the cache if that is whole, else the hub at the revision's commit.

    ``path``: the folder that does not exist, which the text could have meant too. ``where``: where it is named.
    ``tokenizer``: only the tokenizer's files are needed. Raises RecipeError for the misspelt name of a folder;
    StorageError where the hub cannot be reached or asked, or does not have it.
    """
    snapshot = find_snapshot(hub_id, tokenizer)
    if snapshot is not None and not snapshot.missing:
        return str(snapshot.folder)
    where = f"{where}: " if where else ""
    if (near := _near(path)) is not None:
        hint = f"did you mean {near}? A model on a hub of this name is written {hub_id.url}"
        raise RecipeError(f"{where}{path}: no such folder", hint)
    from huggingface_hub import constants

    from svc_dist.storage.hub.repository import HubStorage

    known = f"no folder {path} exists, and the local hub cache {cache_folder()} has {_state(snapshot)}"
    fetch = f"hf download {hub_id.repository}" + (f" --revision {hub_id.revision}" if hub_id.revision else "")
    if constants.HF_HUB_OFFLINE:
        raise StorageError(
            f"{where}{hub_id}: {known}; HF_HUB_OFFLINE=1 forbids asking the hub",
            f"fetch it where the hub can be reached: {fetch}; or unset HF_HUB_OFFLINE",
        )
    try:
        return hub_id.at(HubStorage(hub_id.url, access).commit()).url
    except StorageError as error:
        hint = f"{error.hint}; " if error.hint else ""
        raise StorageError(f"{where}{error.message}; {known}", f"{hint}`{fetch}` fills the cache") from None


def locate_here(text: str, access: Access = DEFAULT_ACCESS) -> str:
    """The location of a model that a command names: of a hub id that is no folder here; anything else as it is."""
    hub_id = parse_hub_id(text)
    return text if hub_id is None or is_there(text) else locate(hub_id, Path(text), access)


def _state(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "no snapshot of it"
    missing = snapshot.missing
    return f"its snapshot {snapshot.commit[:12]} without {', '.join(missing[:_SHOWN])}" + (
        f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    )


def _near(path: Path) -> Path | None:
    """A folder whose path differs from this one in a few letters of one name."""
    for parent in _like(path.parent.name, _folders(path.parent.parent)):
        if is_folder(near := path.parent.parent / parent / path.name):
            return near
    return next((path.parent / name for name in _like(path.name, _folders(path.parent))), None)


def _like(name: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, names, n=3, cutoff=_NEAR)


def _folders(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    except OSError:
        return []
