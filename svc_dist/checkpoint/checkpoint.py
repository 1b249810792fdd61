"""A checkpoint: every tensor's spec, from headers and the index only."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, TypeVar

from svc_dist.checkpoint.formats.declarations import FILES as QUANTISATION_FILES
from svc_dist.checkpoint.header import TensorSpec, header_length, json_object, parse_header, unique_names
from svc_dist.errors import ChangedInputError, DamagedInputError, RecipeError, StorageError
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.open import open_storage

Value = TypeVar("Value")

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
_FIRST_READ = 1 << 18  # most headers fit: one request instead of two on remote storage
_OPEN_TRIES = 4
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A model in a folder or prefix: its files, its tensors by name, and its ``config.json`` if there is one.

    ``quantisation_files``: the names of other files that say that it is quantised.
    """

    location: str
    files: tuple[FileIdentity, ...]
    tensors: Mapping[str, TensorSpec]
    config: Mapping[str, Any] | None
    quantisation_files: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.tensors.values())

    def renamed(self, prefixes: Sequence[tuple[str, str]]) -> Checkpoint:
        """The same tensors under other names; see ``rename_keys``."""
        if not prefixes:
            return self
        tensors = rename_keys(self.tensors, prefixes, self.location).items()
        return replace(self, tensors={name: replace(spec, name=name) for name, spec in tensors})


def rename_keys(named: Mapping[str, Value], prefixes: Sequence[tuple[str, str]], where: str) -> dict[str, Value]:
    """The values under other names: of the pairs ``(from, to)`` the first counts with whose prefix a name starts.

    Raises RecipeError with the location ``where`` when two names would be the same.
    """
    renamed: dict[str, Value] = {}
    for name, value in named.items():
        new = next((to + name.removeprefix(old) for old, to in prefixes if name.startswith(old)), name)
        if new in renamed:
            raise RecipeError(
                f"{where}: rename makes two tensors one: {name!r} and another would both be {new!r}",
                "choose another prefix to put in its place",
            )
        renamed[new] = value
    return renamed


def open_checkpoint(location: str, access: Access = DEFAULT_ACCESS) -> Checkpoint:
    """Read index, headers and config: kilobytes, whatever the model's size.

    Raises DamagedInputError naming file and tensor for anything malformed, StorageError.
    """
    return read_checkpoint(location, *open_model(location, access))


def read_checkpoint(location: str, folder: Storage, names: list[str]) -> Checkpoint:
    """``open_checkpoint`` for an open folder and the names in it."""
    if ADAPTER_CONFIG in names:
        raise DamagedInputError(
            f"{location}: holds {ADAPTER_CONFIG}, so it is an adapter; here a whole model is wanted",
            "merge it into its base with peft first; if the file is a leftover beside a whole model, remove it",
        )
    weight_map = _weight_map(folder, names)
    files = [_single_file(folder, names)] if weight_map is None else sorted(set(weight_map.values()))
    with ThreadPoolExecutor(min(16, len(files))) as pool:
        opened = list(pool.map(lambda file: open_file(folder, file), files))
    tensors: dict[str, TensorSpec] = {}
    for (_, specs), file in zip(opened, files, strict=True):
        for name, spec in specs.items():
            if weight_map is not None and weight_map.get(name) != file:
                other = f"says it is in {weight_map[name]}" if name in weight_map else "does not name it"
                raise DamagedInputError(f"{location}: tensor {name!r} lies in {file}, but the index {other}")
            tensors[name] = spec
    for name, file in (weight_map or {}).items():
        if name not in tensors:
            raise DamagedInputError(
                f"{location}: the index says that tensor {name!r} is in {file}, but it is not there"
            )
    config = json_object(folder.read(CONFIG), f"{folder.location}/{CONFIG}") if CONFIG in names else None
    quantisation_files = tuple(name for name in QUANTISATION_FILES if name in names)
    return Checkpoint(location, tuple(identity for identity, _ in opened), tensors, config, quantisation_files)


def open_model(location: str, access: Access = DEFAULT_ACCESS) -> tuple[Storage, list[str]]:
    """The folder of a model or adapter, and the names in it. Raises StorageError for an empty folder."""
    folder = open_storage(location, access)
    names = folder.names()
    if not names:
        raise StorageError(
            f"{location}: no such model: nothing is there",
            "check the path or URL in the recipe; a model on a hub is written hf://owner/name",
        )
    return folder, names


def _weight_map(folder: Storage, names: list[str]) -> dict[str, str] | None:
    indexes = [name for name in names if name.endswith(".safetensors.index.json")]
    if not indexes:
        return None
    if len(indexes) > 1 and INDEX_FILE not in indexes:
        raise DamagedInputError(f"{folder.location}: more than one index: {', '.join(indexes)}")
    index = INDEX_FILE if INDEX_FILE in indexes else indexes[0]
    where = f"{folder.location}/{index}"
    try:
        weight_map = json.loads(folder.read(index), object_pairs_hook=unique_names)["weight_map"]
        if not weight_map or not all(isinstance(part, str) for pair in weight_map.items() for part in pair):
            raise TypeError("weight_map does not map names to files")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedInputError(f"{where}: not a safetensors index: {error!r}", "download the model again") from None
    for name, file in weight_map.items():
        outside = not file or file.startswith("/") or ".." in PurePosixPath(file).parts or set(file) & set("\\\0:")
        if outside or not file.endswith(".safetensors"):
            why = "outside the checkpoint's folder" if outside else "which is not a safetensors file"
            raise DamagedInputError(f"{where}: tensor {name!r} is said to be in {file!r}, {why}")
    if SINGLE_FILE in names and SINGLE_FILE not in weight_map.values():
        raise DamagedInputError(
            f"{folder.location}: {SINGLE_FILE} lies beside an index without it; loaders disagree which counts",
            "remove the stale one",
        )
    return dict(weight_map)


def _single_file(folder: Storage, names: list[str]) -> str:
    files = [name for name in names if name.endswith(".safetensors")]
    if SINGLE_FILE in files:
        return SINGLE_FILE
    if len(files) == 1:
        return files[0]
    if files:
        raise DamagedInputError(
            f"{folder.location}: {len(files)} safetensors files but no index says which belong together",
            f"add {INDEX_FILE}, or name the folder of one model",
        )
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise DamagedInputError(
            f"{folder.location}: only pickled weights ({pickles[0]}); reading a pickle can run any code: refused",
            "convert it where you trust it: AutoModel.from_pretrained(path).save_pretrained(new_path)",
        )
    raise DamagedInputError(f"{folder.location}: no safetensors file", "check the path or URL in the recipe")


def open_file(folder: Storage, file: str) -> tuple[FileIdentity, dict[str, TensorSpec]]:
    """The identity and the header of one version of a file."""
    for _ in range(_OPEN_TRIES - 1):
        with contextlib.suppress(ChangedInputError):  # replaced between two requests, or an answer was damaged
            return _open_version(folder, file)
    return _open_version(folder, file)


def _open_version(folder: Storage, file: str) -> tuple[FileIdentity, dict[str, TensorSpec]]:
    where = f"{folder.location}/{file}"
    identity = folder.stat(file)
    if identity is None:
        raise DamagedInputError(f"{where}: the index names this file, but it is missing", "download the model again")
    first = folder.read_pinned(identity, 0, min(identity.size, _FIRST_READ))
    end = 8 + header_length(first, where, identity.size)
    header = first[8:end] if end <= len(first) else first[8:] + folder.read_pinned(identity, len(first), end)
    try:
        return identity, parse_header(header, file, identity.size)
    except DamagedInputError as error:
        raise DamagedInputError(f"{folder.location}/{error.message}", error.hint) from None
