"""Names of the files that hold a model's weights: single files, shards, and the index over them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec

from svc_dist.checkpoint.header import unique_names
from svc_dist.checkpoint.placeholder import refuse_placeholder
from svc_dist.errors import DamagedInputError, has_control, printable
from svc_dist.storage.base import Storage

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
#: What the weights of a component of diffusers (unet/, transformer/, vae/) are called.
DIFFUSERS = "diffusion_pytorch_model"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.safetensors")
_INDEX = re.compile(r".+\.safetensors\.index(\.[\w-]+)?\.json")
_ADAPTER = re.compile(r"(?:.*_)?adapters?(?:_model)?(?:-\d+-of-\d+)?\.safetensors(?:\.index\.json)?")
_OF_DIFFUSERS = re.compile(rf"{DIFFUSERS}(?P<variant>\.[\w-]+?)?(-\d+-of-\d+)?\.safetensors")


@dataclass(frozen=True)
class WeightNames:
    """How the files of one model are called. ``stem``: before numbers and ending; ``index``: the index's name."""

    stem: str = "model"
    index: str = INDEX_FILE

    def file(self, number: int, count: int) -> str:
        """The name of shard ``number`` (from 1) of ``count``."""
        return f"{self.stem}{'' if count == 1 else f'-{number:05d}-of-{count:05d}'}.safetensors"


TRANSFORMERS = WeightNames()
#: An adapter of PEFT: one file, and the configuration without which it is none.
ADAPTER = WeightNames("adapter_model", "adapter_config.json")


def names_like(files: Sequence[str], config: Mapping[str, Any] | None) -> WeightNames:
    """The names under which loaders look for a model like one with these files: diffusers has names of its own."""
    first = _OF_DIFFUSERS.fullmatch(files[0].rpartition("/")[2]) if files else None
    if first is not None:
        variant = first["variant"] or ""
        return WeightNames(f"{DIFFUSERS}{variant}", f"{DIFFUSERS}.safetensors.index{variant}.json")
    if config is not None and "_diffusers_version" in config and "architectures" not in config:
        return WeightNames(DIFFUSERS, f"{DIFFUSERS}.safetensors.index.json")
    return TRANSFORMERS


def is_adapter_file(name: str) -> bool:
    """Whether a file holds an adapter's tensors, or is the index over its shards: also those of other programs."""
    return _ADAPTER.fullmatch(name) is not None


def stored_name(name: str, file: str) -> str:
    """The name of a tensor in its file: without the folder of a module, which begins its name in the model."""
    folder = file.rpartition("/")[0]
    return name.removeprefix(f"{folder}/") if folder else name


def is_index(name: str) -> bool:
    """Whether a file is an index of safetensors shards; ``model.safetensors.index.fp16.json`` is one too."""
    return _INDEX.fullmatch(name.rpartition("/")[2]) is not None


def completes(name: str) -> bool:
    """Whether a file, written last, says that a result is complete: a model's index or an adapter's configuration."""
    return is_index(name) or name.rpartition("/")[2] == ADAPTER.index


def is_last(name: str) -> bool:
    """Whether weights are a model's only file, or the last shard by number: until it is there, no model looks whole."""
    match = _SHARD.fullmatch(name.rpartition("/")[2])
    return name.endswith(".safetensors") and (match is None or int(match["number"]) == int(match["count"]))


def missing_shards(names: Iterable[str]) -> tuple[str, int, list[str]] | None:
    """Of files called like shards: one of them, how many there must be, and the names of those that are missing.

    None where no name is that of a shard of several, or a set is complete.
    """
    sets: dict[tuple[str, int], list[str]] = {}
    widths: dict[tuple[str, int], int] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match is not None and len(match["count"]) <= 6 and int(match["count"]) > 1:
            key = match["stem"], int(match["count"])
            sets.setdefault(key, []).append(name)
            widths[key] = len(match["count"])
    for (stem, count), present in sets.items():
        width = widths[stem, count]
        every = [f"{stem}-{number:0{width}d}-of-{count:0{width}d}.safetensors" for number in range(1, count + 1)]
        missing = [name for name in every if name not in present]
        if missing:
            return present[0], count, missing
    return None


def indexed_files(folder: Storage, names: Sequence[str]) -> dict[str, str] | None:
    """The file of each tensor of a model in a folder with these names, by its index; None where it has no index.

    Raises DamagedInputError for an index that loaders would read in different ways, or that leads out of the folder.
    """
    indexes = [name for name in names if is_index(name)]
    if not indexes:
        return None
    plain = [name for name in indexes if name.endswith(".safetensors.index.json")]
    if not plain and {SINGLE_FILE, f"{DIFFUSERS}.safetensors"} & set(names):
        return None  # the shards are a variant (in another dtype) of the single file
    plain = plain or indexes
    if len(plain) > 1 and INDEX_FILE not in plain:
        raise DamagedInputError(f"{folder.location}: more than one index: {', '.join(map(printable, indexes))}")
    index = INDEX_FILE if INDEX_FILE in plain else plain[0]
    where = folder.url(index)
    text = folder.read(index)
    refuse_placeholder(text, where)
    try:
        weight_map = _plain_map(text) or _any_map(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedInputError(f"{where}: not a safetensors index: {error!r}", "download the model again") from None
    for file, name in {file: name for name, file in reversed(weight_map.items())}.items():  # each file's first tensor
        outside = (
            not file
            or file.startswith("/")
            or ".." in PurePosixPath(file).parts
            or set(file) & set("\\\0:")
            or has_control(file)
        )
        if outside or not file.endswith(".safetensors"):
            why = "outside the checkpoint's folder" if outside else "which is not a safetensors file"
            raise DamagedInputError(f"{where}: tensor {name!r} is said to be in {file!r}, {why}")
    if SINGLE_FILE in names and SINGLE_FILE not in weight_map.values():
        raise DamagedInputError(
            f"{folder.location}: {SINGLE_FILE} lies beside an index without it; loaders disagree which counts",
            "remove the stale one",
        )
    return weight_map


def _any_map(text: bytes) -> dict[str, str]:
    weight_map: dict[str, str] = json.loads(text, object_pairs_hook=unique_names)["weight_map"]
    if not weight_map or not all(isinstance(part, str) for pair in weight_map.items() for part in pair):
        raise TypeError("weight_map does not map names to files")
    return weight_map


class _Index(msgspec.Struct):
    weight_map: msgspec.Raw


_INDEXES = msgspec.json.Decoder(_Index)
_MAPS = msgspec.json.Decoder(dict[str, str])


def _plain_map(text: bytes) -> dict[str, str] | None:
    """The map of an index without fault and without escapes, quickly; None for any other, which may be right too."""
    if b"\\" in text or text.count(b'"weight_map"') != 1:
        return None
    try:
        raw = bytes(_INDEXES.decode(text).weight_map)
        found = _MAPS.decode(raw)
    except (ValueError, RecursionError):
        return None
    return found if raw.count(b'"') == 4 * len(found) else None  # else names stand there twice
