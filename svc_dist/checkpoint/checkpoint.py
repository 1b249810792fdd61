"""A checkpoint: every tensor's spec, from headers and the index only."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from msgspec import structs

from svc_dist.checkpoint.foreign import empty_folder, missing_folder, refuse_foreign
from svc_dist.checkpoint.formats.declarations import FILES as QUANTISATION_FILES
from svc_dist.checkpoint.header import TensorSpec, header_length, json_object, parse_header
from svc_dist.checkpoint.modules import module_weights
from svc_dist.checkpoint.placeholder import copied, refuse_placeholder
from svc_dist.checkpoint.weight_files import (
    DIFFUSERS,
    INDEX_FILE,
    SINGLE_FILE,
    WeightNames,
    indexed_files,
    is_adapter_file,
    is_index,
    missing_shards,
    names_like,
    stored_name,
)
from svc_dist.errors import ChangedInputError, DamagedInputError, RecipeError, printable_lines
from svc_dist.sizes import counted
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.open import open_storage
from svc_dist.tensor_names import renamed

Value = TypeVar("Value")

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
_FIRST_READ = 1 << 18  # most headers fit: one request instead of two on remote storage
_OPEN_TRIES = 4
_DOWNLOAD = "the download stopped: download the model again (hf download OWNER/NAME resumes)"


@dataclass(frozen=True)
class Checkpoint:
    """A model in a folder or prefix: its files, its tensors by name, and its ``config.json`` if there is one.

    ``quantisation_files``: the names of other files that say that it is quantised; ``unneeded``: tensors that nothing
    needs once quantised weights are decoded, such as scales of activations; a result in codes has the base's.
    """

    location: str
    files: tuple[FileIdentity, ...]
    tensors: Mapping[str, TensorSpec]
    config: Mapping[str, Any] | None
    quantisation_files: tuple[str, ...] = ()
    unneeded: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.tensors.values())

    @property
    def weight_names(self) -> WeightNames:
        """The names under which loaders look for a model like this one."""
        return names_like([file.name for file in self.files], self.config)

    @property
    def modules(self) -> set[str]:
        """The sub-folders whose tensors have names that begin with the folder, as in ``2_Dense/linear.weight``."""
        return {
            spec.file.rpartition("/")[0] for name, spec in self.tensors.items() if stored_name(name, spec.file) != name
        }

    def renamed(self, prefixes: Sequence[tuple[str, str]]) -> Checkpoint:
        """The same tensors under other names; see ``rename_keys``."""
        if not prefixes:
            return self
        tensors = rename_keys(self.tensors, prefixes, self.location).items()
        unneeded = tuple(rename_keys(dict.fromkeys(self.unneeded), prefixes, self.location))
        return replace(
            self, tensors={name: structs.replace(spec, name=name) for name, spec in tensors}, unneeded=unneeded
        )


def rename_keys(named: Mapping[str, Value], pairs: Sequence[tuple[str, str]], where: str) -> dict[str, Value]:
    """The values under other names. Raises RecipeError with the location ``where`` when two names would be the same."""
    result: dict[str, Value] = {}
    for name, value in named.items():
        new, _ = renamed(name, pairs)
        if new in result:
            raise RecipeError(
                f"{where}: rename makes two tensors one: {name!r} and another would both be {new!r}",
                "choose another prefix to put in its place",
                code="rename-collides",
            )
        result[new] = value
    return result


def open_checkpoint(location: str, access: Access = DEFAULT_ACCESS) -> Checkpoint:
    """Read index, headers and config: kilobytes, whatever the model's size.

    Raises DamagedInputError naming file and tensor for anything malformed, StorageError.
    """
    return read_checkpoint(location, *open_model(location, access))


def read_checkpoint(location: str, folder: Storage, names: list[str], known: KnownHeaders | None = None) -> Checkpoint:
    """``open_checkpoint`` for an open folder and the names in it. ``known``: the headers of models opened with it.

    Of a folder that holds a model and an adapter, the model.
    """
    known = known or KnownHeaders()
    if ADAPTER_CONFIG in names and not model_files(names):
        raise DamagedInputError(
            f"{location}: holds {ADAPTER_CONFIG}, so it is an adapter; here a whole model is wanted",
            "merge it into its base with peft first, and name the result",
            code="base-not-whole",
        )
    if ADAPTER_CONFIG in names:
        names = [name for name in names if not is_adapter_file(name)]
    weight_map = indexed_files(folder, names)
    files = [_single_file(folder, names)] if weight_map is None else sorted(set(weight_map.values()))
    _require_there(folder, files, names)
    with ThreadPoolExecutor(min(16, len(files))) as pool:
        headers = list(pool.map(lambda file: _read_header(folder, file), files))
    opened = [(identity, known.tensors(folder, identity, header)) for identity, header in headers]
    tensors: dict[str, TensorSpec] = {}
    for _, specs in opened:
        tensors.update(specs)
    if weight_map is not None:
        _require_as_indexed(location, weight_map, {file: specs for (_, specs), file in zip(opened, files, strict=True)})
    for file in module_weights(folder, names):
        opened.append(open_file(folder, file))
        module = file.rpartition("/")[0]
        tensors |= {
            f"{module}/{name}": structs.replace(spec, name=f"{module}/{name}") for name, spec in opened[-1][1].items()
        }
    config = json_object(folder.read(CONFIG), folder.url(CONFIG)) if CONFIG in names else None
    quantisation_files = tuple(name for name in QUANTISATION_FILES if name in names)
    return Checkpoint(location, tuple(identity for identity, _ in opened), tensors, config, quantisation_files)


def model_files(names: Sequence[str]) -> list[str]:
    """The files of a model's weights in a folder, which may hold an adapter as well."""
    weights = [name for name in names if name.endswith(".safetensors") or is_index(name)]
    return [name for name in weights if not is_adapter_file(name)]


def open_model(location: str, access: Access = DEFAULT_ACCESS) -> tuple[Storage, list[str]]:
    """The folder of a model or adapter, and the names in it.

    Raises RecipeError for a path that does not exist, StorageError for a folder or prefix without files.
    """
    folder = open_storage(location, access)
    if (error := missing_folder(folder)) is not None:
        raise error
    folder.reach()
    names = folder.names()
    if not names:
        raise empty_folder(folder)
    return folder, names


def _require_as_indexed(
    location: str, weight_map: Mapping[str, str], stored: Mapping[str, Mapping[str, TensorSpec]]
) -> None:
    """Raise DamagedInputError unless the files hold what the index says. ``stored``: the tensors of each file."""
    for file, specs in stored.items():
        for name in specs:
            if weight_map.get(name) != file:
                other = f"says it is in {weight_map[name]}" if name in weight_map else "does not name it"
                raise DamagedInputError(f"{location}: tensor {name!r} lies in {file}, but the index {other}")
    if sum(map(len, stored.values())) == len(weight_map):
        return
    for name, file in weight_map.items():
        if name not in stored[file]:
            raise DamagedInputError(
                f"{location}: the index says that tensor {name!r} is in {file}, but it is not there"
            )


def _require_there(folder: Storage, files: list[str], names: list[str]) -> None:
    """Raise DamagedInputError when an index names files that are not there."""
    there = set(names)
    missing = [file for file in files if "/" not in file and file not in there and folder.stat(file) is None]
    if missing:
        raise DamagedInputError(
            f"{folder.location}: the index names {counted(len(files), 'file')}, {len(missing)} of them missing: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}",
            copied(_DOWNLOAD, folder.location),
        )


def _single_file(folder: Storage, names: list[str]) -> str:
    files = [name for name in names if name.endswith(".safetensors")]
    if SINGLE_FILE in files:
        return SINGLE_FILE
    if (incomplete := missing_shards(files)) is not None:
        shard, count, missing = incomplete
        raise DamagedInputError(
            f"{folder.location}: {count - len(missing)} of {count} shards ({shard}), without an index: "
            f"{missing[0]} is missing",
            copied(_DOWNLOAD, folder.location),
        )
    if len(files) > 1:  # a component of diffusers may have files in several dtypes: the plain one counts
        files = [name for name in files if name == f"{DIFFUSERS}.safetensors"] or files
    if len(files) == 1:
        return files[0]
    if files:
        raise DamagedInputError(
            f"{folder.location}: {len(files)} safetensors files but no index says which belong together",
            f"add {INDEX_FILE}, or name the folder of one model",
        )
    raise refuse_foreign(folder, names)


class KnownHeaders:
    """The tensors of headers that were parsed: releases of one family often have the same ones, which are parsed once.

    Threads take turns: Python runs one at a time, and changes between them cost more than the parsing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parsed: dict[tuple[str, int, bytes], dict[str, TensorSpec]] = {}

    def tensors(self, folder: Storage, identity: FileIdentity, header: bytes) -> dict[str, TensorSpec]:
        """The tensors of a file by its header. Raises DamagedInputError naming file and tensor."""
        key = identity.name, identity.size, header
        with self._lock:
            if key not in self._parsed:
                try:
                    self._parsed[key] = parse_header(header, identity.name, identity.size)
                except DamagedInputError as error:
                    message = error.message.removeprefix(printable_lines(identity.name))
                    raise DamagedInputError(f"{folder.url(identity.name)}{message}", error.hint) from None
            return self._parsed[key]


def open_file(folder: Storage, file: str) -> tuple[FileIdentity, dict[str, TensorSpec]]:
    """The identity and the tensors of one version of a file. Raises DamagedInputError naming file and tensor."""
    identity, header = _read_header(folder, file)
    return identity, KnownHeaders().tensors(folder, identity, header)


def _read_header(folder: Storage, file: str) -> tuple[FileIdentity, bytes]:
    """The identity and the header of one version of a file."""
    for _ in range(_OPEN_TRIES - 1):
        with contextlib.suppress(ChangedInputError):  # replaced between two requests, or an answer was damaged
            return _read_version(folder, file)
    return _read_version(folder, file)


def _read_version(folder: Storage, file: str) -> tuple[FileIdentity, bytes]:
    where = folder.url(file)
    identity = folder.stat(file)
    if identity is None:
        raise DamagedInputError(f"{where}: the index names this file, but it is missing", "download the model again")
    first = folder.read_pinned(identity, 0, min(identity.size, _FIRST_READ))
    refuse_placeholder(first, where)
    end = 8 + header_length(first, where, identity.size)
    return identity, first[8:end] if end <= len(first) else first[8:] + folder.read_pinned(identity, len(first), end)
