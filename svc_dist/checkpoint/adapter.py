"""LoRA adapters as experts: what a PEFT adapter adds to each tensor, from its header and its configuration only.

An adapter folder holds ``adapter_config.json`` and ``adapter_model.safetensors``. For a module's weight ``W`` of shape
``(m, n)`` it stores ``lora_B (m, r)`` and ``lora_A (r, n)``: the expert has ``W + scale * B A``. For the scale see
adapter_config.py.
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
class AdapterFactors:
    """What an adapter adds to a tensor ``(m, n)``: ``scale * left @ right`` with ``left (m, r)``, ``right (r, n)``.

    ``transposed``: each of them is stored as its transpose.
    """

    left: TensorSpec
    right: TensorSpec
    scale: float
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        if self.transposed:
            return self.left.shape[1], self.right.shape[0]
        return self.left.shape[0], self.right.shape[1]


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder or prefix: the factors and the whole tensors that it stores, by the name of their tensor.

    ``factors``: for weights ``(out_features, in_features)``, transposed for embeddings. ``flipped``: a weight whose
    shape allows both is ``(in_features, out_features)``.
    """

    location: str
    files: tuple[FileIdentity, ...]
    factors: Mapping[str, AdapterFactors]
    saved: Mapping[str, TensorSpec]
    flipped: bool

    def renamed(self, prefixes: Sequence[tuple[str, str]]) -> Adapter:
        """The same for tensors of other names; see ``rename_keys``."""
        factors = rename_keys(self.factors, prefixes, self.location)
        return replace(self, factors=factors, saved=rename_keys(self.saved, prefixes, self.location))


@dataclass(frozen=True)
class OpenedModel:
    """An expert's location: a model, an adapter to the base, or a model and an adapter to it."""

    location: str
    model: Checkpoint | None
    adapter: Adapter | None

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """By name, one stored tensor each."""
        tensors = {} if self.model is None else dict(self.model.tensors)
        if self.adapter is not None:
            tensors |= {name: one.left for name, one in self.adapter.factors.items()} | dict(self.adapter.saved)
        return tensors

    def renamed(self, prefixes: Sequence[tuple[str, str]]) -> OpenedModel:
        """The same under other names; see ``rename_keys``."""
        model = None if self.model is None else self.model.renamed(prefixes)
        return OpenedModel(self.location, model, None if self.adapter is None else self.adapter.renamed(prefixes))


@dataclass(frozen=True)
class Expert:
    """An expert over a base. ``whole``: its tensors as if merged; ``factors``: by name, what its adapter adds.

    A tensor that neither its adapter nor its model stores is the base's.
    """

    model: Checkpoint | None
    adapter: Adapter | None
    whole: Checkpoint
    factors: Mapping[str, AdapterFactors]

    def saved(self, name: str) -> TensorSpec | None:
        """The whole tensor of that name in the adapter, if any."""
        return None if self.adapter is None else self.adapter.saved.get(name)


def open_expert(location: str, access: Access = DEFAULT_ACCESS) -> OpenedModel:
    """Read the headers of a model, of an adapter, or of ``model+adapter``.

    Raises DamagedInputError naming file and tensor, StorageError, RecipeError.
    """
    model, adapter = split_location(location, access)
    if adapter is not None:
        return OpenedModel(location, open_checkpoint(model, access), open_adapter(adapter, access))
    folder, names = open_model(location, access)
    if ADAPTER_CONFIG in names:
        return OpenedModel(location, None, _read_adapter(location, folder, names))
    return OpenedModel(location, read_checkpoint(location, folder, names), None)


def open_adapter(location: str, access: Access = DEFAULT_ACCESS) -> Adapter:
    """Read an adapter's configuration and header.

    Raises DamagedInputError naming file, tensor and configuration key unless it is a well-formed plain LoRA.
    """
    return _read_adapter(location, *open_model(location, access))


def _read_adapter(location: str, folder: Storage, names: list[str]) -> Adapter:
    _require_files(folder, names)
    where = f"{location}/{ADAPTER_FILE}"
    identity = folder.stat(ADAPTER_CONFIG)
    if identity is None:
        raise DamagedInputError(f"{folder.location}/{ADAPTER_CONFIG}: gone while it was being opened")
    text = folder.read_pinned(identity, 0, identity.size)
    config = parse_adapter_config(text, f"{folder.location}/{ADAPTER_CONFIG}")
    file, tensors = open_file(folder, ADAPTER_FILE)
    halves: dict[str, dict[str, TensorSpec]] = {}
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
            continue
        if _OTHER_LAYERS.search(name):
            raise DamagedInputError(f"{where}: tensor {key!r} belongs to no plain LoRA layer", MERGE_FIRST)
        target = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        if target in saved:
            raise DamagedInputError(f"{where}: tensor {key!r} is there twice: as {saved[target].name!r} too")
        saved[target] = spec
    if not halves and not saved:
        raise DamagedInputError(f"{where}: holds no tensor", "save the adapter again")
    factors = {name: _factors(name, half, config, where) for name, half in halves.items()}
    return Adapter(location, (identity, file), factors, saved, config.fan_in_fan_out)


def attach(opened: OpenedModel, base: Checkpoint) -> Expert:
    """An expert over ``base``. Raises PlanError naming the adapter's file and tensor for factors without a tensor of
    their name and shape."""
    if opened.adapter is None:
        assert opened.model is not None
        return Expert(opened.model, None, opened.model, {})
    adapter, below = opened.adapter, opened.model or base
    tensors = {**below.tensors, **adapter.saved}
    factors = {name: _attached(name, one, tensors.get(name), adapter, below) for name, one in adapter.factors.items()}
    whole = Checkpoint(opened.location, adapter.files, tensors, below.config)
    return Expert(opened.model, adapter, whole, factors)


def _require_files(folder: Storage, names: list[str]) -> None:
    location = folder.location
    if ADAPTER_CONFIG not in names:
        raise DamagedInputError(f"{location}: no adapter: {ADAPTER_CONFIG} is missing", "save it with save_pretrained")
    others = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if ADAPTER_FILE in names:
        others.remove(ADAPTER_FILE)
        if not others:
            return
        raise DamagedInputError(
            f"{location}: {others[0]} lies beside {ADAPTER_FILE}: a model or an adapter?",
            "put them into folders of their own, and write model+adapter where both are meant",
        )
    if "adapter_model.bin" in names:
        raise DamagedInputError(
            f"{location}: only a pickled adapter (adapter_model.bin); reading a pickle can run any code: refused",
            "convert it where you trust it: load it with peft, then save_pretrained(new_path)",
        )
    raise DamagedInputError(
        f"{location}: {ADAPTER_CONFIG} without {ADAPTER_FILE}",
        "save the adapter again; beside a whole model the file is a leftover: remove it",
    )


def _factors(name: str, half: Mapping[str, TensorSpec], config: AdapterConfig, where: str) -> AdapterFactors:
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
    for spec, stored in ((a, a.shape[0]), (b, b.shape[1])):
        if stored != rank:
            raise DamagedInputError(
                f"{where}: tensor {spec.name!r} of shape {list(spec.shape)} has rank {stored}, "
                f"but {ADAPTER_CONFIG} says {rank} (r, rank_pattern)",
                "the two files do not belong together; save the adapter again",
            )
    embedding = "lora_embedding_" in a.name
    return AdapterFactors(a, b, scale, True) if embedding else AdapterFactors(b, a, scale, False)


def _attached(
    name: str, factors: AdapterFactors, spec: TensorSpec | None, adapter: Adapter, below: Checkpoint
) -> AdapterFactors:
    """The factors of the tensor ``spec``, transposed where it is ``(in_features, out_features)``."""
    where = f"{adapter.location}/{ADAPTER_FILE}: tensor {factors.left.name!r}"
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
    if (
        not factors.transposed
        and spec.shape == factors.shape[::-1]
        and (adapter.flipped or spec.shape != factors.shape)
    ):
        # As in PEFT: the shape decides where it allows one way only, whatever the flag says.
        return AdapterFactors(factors.right, factors.left, factors.scale, True)
    if spec.shape != factors.shape:
        raise PlanError(
            f"{where} and {factors.right.name!r} make {list(factors.shape)}, but {name!r} has shape "
            f"{list(spec.shape)} in {below.location}",
            "the adapter belongs to another model; name the one that it was trained on as base_model",
        )
    return factors
