"""LoRA adapters as experts: what a PEFT adapter adds to which tensor, from its headers and its configuration only.

An adapter folder holds ``adapter_config.json`` and ``adapter_model.safetensors``. For a module's weight ``W`` of shape
``(m, n)`` it stores ``lora_B (m, r)`` and ``lora_A (r, n)``, and stands for ``W + scale * B A``. See adapter_config.py
for the scale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from svc_dist.checkpoint.adapter_config import MERGE_FIRST, AdapterConfig, parse_adapter_config
from svc_dist.checkpoint.checkpoint import (
    ADAPTER_CONFIG,
    Checkpoint,
    open_checkpoint,
    open_file,
    open_model,
    read_checkpoint,
    rename_keys,
)
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import DamagedInputError, PlanError
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.open import split_location

ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?P<weight>\.weight)?")
_OTHER_LAYERS = re.compile(r"\.lora_|\.token_adapter\.|\.hada_|\.lokr_|\.oft_|\.boft_|\.ia3_|\.vera_")


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to a tensor ``(m, n)``: ``scale * left @ right`` with ``left (m, r)``, ``right (r, n)``.

    ``transposed``: each of them is stored as its transpose.
    """

    left: TensorSpec
    right: TensorSpec
    scale: float
    transposed: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """``lora_A (r, n)`` and ``lora_B (m, r)`` of one module and their scale; ``embedding``: of a transposed weight."""

    a: TensorSpec
    b: TensorSpec
    scale: float
    embedding: bool


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder or prefix: the pairs and the whole tensors that it stores, by the tensor they are for.

    ``flipped``: weights that could be stored either way are ``(in_features, out_features)``.
    """

    location: str
    files: tuple[FileIdentity, ...]
    pairs: Mapping[str, Pair]
    saved: Mapping[str, TensorSpec]
    flipped: bool

    def renamed(self, prefixes: Sequence[tuple[str, str]]) -> Adapter:
        """The same for tensors of other names; see ``Checkpoint.renamed``."""
        pairs = rename_keys(self.pairs, prefixes, self.location)
        return replace(self, pairs=pairs, saved=rename_keys(self.saved, prefixes, self.location))


@dataclass(frozen=True)
class Opened:
    """What an expert's location holds: a model (None: the base itself), an adapter to it, or both."""

    location: str
    model: Checkpoint | None
    adapter: Adapter | None

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """By name, of what is stored for it one part."""
        found = {} if self.model is None else dict(self.model.tensors)
        if self.adapter is not None:
            found |= {name: pair.b for name, pair in self.adapter.pairs.items()} | dict(self.adapter.saved)
        return found

    def renamed(self, prefixes: Sequence[tuple[str, str]]) -> Opened:
        """The same under other names; see ``Checkpoint.renamed``."""
        model = None if self.model is None else self.model.renamed(prefixes)
        return Opened(self.location, model, None if self.adapter is None else self.adapter.renamed(prefixes))


@dataclass(frozen=True)
class Expert:
    """An expert over a base: its tensors as if it were whole, and where what makes them up lies.

    ``factors``: by name, what the adapter adds. What neither the adapter nor a model of its own stores is the base's.
    """

    location: str
    model: Checkpoint | None
    adapter: Adapter | None
    whole: Checkpoint
    factors: Mapping[str, Factors]

    def saved(self, name: str) -> TensorSpec | None:
        """The adapter's own whole tensor of that name, where it has one."""
        return None if self.adapter is None else self.adapter.saved.get(name)

    def stored(self, name: str) -> TensorSpec | None:
        """That of the model of its own; None where the base's takes its place."""
        return None if self.model is None else self.model.tensors.get(name)


def open_expert(location: str, access: Access = DEFAULT_ACCESS) -> Opened:
    """Read the headers of a model, of an adapter, or of ``model+adapter``.

    Raises DamagedInputError naming file and tensor, StorageError, RecipeError.
    """
    model, adapter = split_location(location, access)
    if adapter is not None:
        return Opened(location, open_checkpoint(model, access), open_adapter(adapter, access))
    folder, names = open_model(location, access)
    if ADAPTER_CONFIG in names:
        return Opened(location, None, _read_adapter(location, folder, names))
    return Opened(location, read_checkpoint(location, folder, names), None)


def open_adapter(location: str, access: Access = DEFAULT_ACCESS) -> Adapter:
    """Read an adapter's configuration and header.

    Raises DamagedInputError naming file, tensor and configuration key for what is malformed or is no plain LoRA.
    """
    return _read_adapter(location, *open_model(location, access))


def _read_adapter(location: str, folder: Storage, names: list[str]) -> Adapter:
    _require_files(folder, names)
    where = f"{location}/{ADAPTER_FILE}"
    identity, config = _configuration(folder)
    file, tensors = open_file(folder, ADAPTER_FILE)
    halves: dict[str, dict[str, TensorSpec]] = {}
    embeddings: set[str] = set()
    saved: dict[str, TensorSpec] = {}
    for key, spec in tensors.items():
        if spec.dtype not in FLOAT_DTYPES:
            raise DamagedInputError(f"{where}: tensor {key!r} has dtype {spec.dtype}", "adapters hold plain floats")
        if not key.startswith(_PREFIX):
            raise DamagedInputError(f"{where}: tensor {key!r} does not begin with {_PREFIX!r}", MERGE_FIRST)
        name = key.removeprefix(_PREFIX)
        factor = _FACTOR.fullmatch(name)
        if factor is not None and (factor["weight"] is None) == (factor["embedding"] is not None):
            target = factor["module"].replace(".base_layer", "") + ".weight"
            halves.setdefault(target, {})[factor["side"]] = spec
            if factor["embedding"] is not None:
                embeddings.add(target)
            continue
        if _OTHER_LAYERS.search(name):
            raise DamagedInputError(f"{where}: tensor {key!r} belongs to no plain LoRA layer", MERGE_FIRST)
        target = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        if target in saved:
            raise DamagedInputError(f"{where}: tensor {key!r} is there twice: as {saved[target].name!r} too")
        saved[target] = spec
    if not halves and not saved:
        raise DamagedInputError(f"{where}: holds no tensor", "save the adapter again")
    pairs = {name: _pair(name, half, name in embeddings, config, where) for name, half in halves.items()}
    return Adapter(location, (identity, file), pairs, saved, config.fan_in_fan_out)


def attach(opened: Opened, base: Checkpoint) -> Expert:
    """An expert over ``base``: each of its adapter's pairs put to its tensor.

    Raises PlanError naming the adapter's file and tensor when there is no such tensor, or none of that shape.
    """
    if opened.adapter is None:
        assert opened.model is not None
        return Expert(opened.location, opened.model, None, opened.model, {})
    adapter, below = opened.adapter, opened.model or base
    tensors = {**below.tensors, **adapter.saved}
    factors = {name: _factors(name, pair, tensors, adapter, below) for name, pair in adapter.pairs.items()}
    whole = Checkpoint(opened.location, adapter.files, tensors, below.config)
    return Expert(opened.location, opened.model, adapter, whole, factors)


def _require_files(folder: Storage, names: list[str]) -> None:
    location = folder.location
    if ADAPTER_CONFIG not in names:
        raise DamagedInputError(f"{location}: no adapter: {ADAPTER_CONFIG} is missing", "save it with save_pretrained")
    others = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if ADAPTER_FILE in names and len(others) > 1:
        other = next(name for name in others if name != ADAPTER_FILE)
        raise DamagedInputError(
            f"{location}: {other} lies beside {ADAPTER_FILE}: a model or an adapter?",
            "put them into folders of their own, and write model+adapter where both are meant",
        )
    if ADAPTER_FILE in names:
        return
    if "adapter_model.bin" in names:
        raise DamagedInputError(
            f"{location}: only a pickled adapter (adapter_model.bin); reading a pickle can run any code: refused",
            "convert it where you trust it: load it with peft, then save_pretrained(new_path)",
        )
    raise DamagedInputError(
        f"{location}: {ADAPTER_CONFIG} without {ADAPTER_FILE}",
        "save the adapter again; beside a whole model the file is a leftover: remove it",
    )


def _configuration(folder: Storage) -> tuple[FileIdentity, AdapterConfig]:
    identity = folder.stat(ADAPTER_CONFIG)
    if identity is None:
        raise DamagedInputError(f"{folder.location}/{ADAPTER_CONFIG}: gone while it was being opened")
    text = folder.read(ADAPTER_CONFIG, 0, identity.size, identity)
    return identity, parse_adapter_config(text, f"{folder.location}/{ADAPTER_CONFIG}")


def _pair(name: str, half: Mapping[str, TensorSpec], embedding: bool, config: AdapterConfig, where: str) -> Pair:
    if len(half) < 2:
        only = next(iter(half.values())).name
        raise DamagedInputError(
            f"{where}: tensor {only!r} has no partner: lora_{'B' if 'A' in half else 'A'} is missing",
            "save the adapter again",
        )
    a, b = half["A"], half["B"]
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise DamagedInputError(
            f"{where}: tensors {a.name!r} of shape {list(a.shape)} and {b.name!r} of shape {list(b.shape)} are no "
            "matrices: LoRA of a convolution is not read",
            MERGE_FIRST,
        )
    rank, scale = config.scale(name.removesuffix(".weight"))
    for spec, found in ((a, a.shape[0]), (b, b.shape[1])):
        if found != rank:
            raise DamagedInputError(
                f"{where}: tensor {spec.name!r} of shape {list(spec.shape)} has rank {found}, "
                f"but {ADAPTER_CONFIG} says {rank} (r, rank_pattern)",
                "the two files do not belong together; save the adapter again",
            )
    return Pair(a, b, scale, embedding)


def _factors(name: str, pair: Pair, tensors: Mapping[str, TensorSpec], adapter: Adapter, below: Checkpoint) -> Factors:
    where = f"{adapter.location}/{ADAPTER_FILE}: tensor {pair.b.name!r}"
    spec = tensors.get(name)
    if spec is None:
        raise PlanError(
            f"{where} is for {name!r}, which {below.location} does not have",
            "the adapter belongs to another model, or to one whose tensors have other names; " + MERGE_FIRST,
        )
    if spec.dtype not in FLOAT_DTYPES:
        raise PlanError(
            f"{where} is for {name!r}, which is {spec.dtype} in {below.location}: nothing can be added to it",
            "name a base_model in a plain float dtype, like the one that was quantised",
        )
    straight, flipped = (pair.b.shape[0], pair.a.shape[1]), (pair.a.shape[1], pair.b.shape[0])
    # As PEFT does, whatever the flag says: a weight that fits one way only is stored that way.
    transposed = pair.embedding or (spec.shape == flipped and (adapter.flipped or spec.shape != straight))
    if spec.shape != (flipped if transposed else straight):
        raise PlanError(
            f"{where} and {pair.a.name!r} make {list(straight)}, but {name!r} has shape {list(spec.shape)} in "
            f"{below.location}",
            "the adapter belongs to another model; name the one that it was trained on as base_model",
        )
    left, right = (pair.a, pair.b) if transposed else (pair.b, pair.a)
    return Factors(left, right, pair.scale, transposed)
