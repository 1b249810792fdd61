"""LoRA adapters as experts: what a PEFT adapter adds to each tensor, from its header and its configuration only.

An adapter folder holds ``adapter_config.json`` and ``adapter_model.safetensors``. For a module's weight ``W`` of shape
``(m, n)`` it stores ``lora_B (m, r)`` and ``lora_A (r, n)``: the expert has ``W + scale * B A``. For the scale see
config.py, for other shapes factors.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from msgspec import structs

from svc_dist.checkpoint.adapters.config import AdapterConfig, parse_adapter_config
from svc_dist.checkpoint.adapters.factors import AdapterFactors, Attaching, require_rank
from svc_dist.checkpoint.adapters.tensors import Pair, read_adapter_tensors
from svc_dist.checkpoint.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    Checkpoint,
    KnownHeaders,
    model_files,
    open_checkpoint,
    open_file,
    open_model,
    read_checkpoint,
    rename_keys,
)
from svc_dist.checkpoint.fused_experts import in_layout_of
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.checkpoint.weight_files import is_adapter_file, missing_shards
from svc_dist.errors import DamagedInputError
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.open import split_location


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder or prefix: its pairs of factors and the whole tensors that it stores.

    ``pairs``: by the name of their module's weight, innermost first. ``saved``: by the name of the tensor.
    """

    location: str
    files: tuple[FileIdentity, ...]
    pairs: Mapping[str, tuple[Pair, ...]]
    saved: Mapping[str, TensorSpec]
    config: AdapterConfig

    def renamed(self, prefixes: Sequence[tuple[str, str]]) -> Adapter:
        """The same for tensors of other names; see ``rename_keys``."""
        pairs = rename_keys(self.pairs, prefixes, self.location)
        return replace(self, pairs=pairs, saved=rename_keys(self.saved, prefixes, self.location))


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
            tensors |= {name: pairs[0].b for name, pairs in self.adapter.pairs.items()} | dict(self.adapter.saved)
        return tensors

    def renamed(self, prefixes: Sequence[tuple[str, str]]) -> OpenedModel:
        """The same under other names; see ``rename_keys``."""
        model = None if self.model is None else self.model.renamed(prefixes)
        return OpenedModel(self.location, model, None if self.adapter is None else self.adapter.renamed(prefixes))

    def in_layout_of(self, base: Checkpoint) -> OpenedModel:
        """The same with the model's experts in the layout of ``base``; an adapter takes it when it is attached."""
        return self if self.model is None else replace(self, model=in_layout_of(self.model, base))


@dataclass(frozen=True)
class Expert:
    """An expert over a base. ``whole``: its tensors as if merged; ``factors``: by name, what its adapter adds.

    A tensor that neither its adapter nor its model stores is the base's.
    """

    model: Checkpoint | None
    adapter: Adapter | None
    whole: Checkpoint
    factors: Mapping[str, tuple[AdapterFactors, ...]]

    def saved(self, name: str) -> TensorSpec | None:
        """The whole tensor of that name in the adapter, if any."""
        return None if self.adapter is None else self.adapter.saved.get(name)


#: In the names of factors and of what lies beside them, also in those of diffusers and Kohya.
_LORA = re.compile(r"\.lora_(?:(?:embedding_)?[AB]|up|down|magnitude_vector|[ab])\b|\.lora\.(?:up|down)\.|\.alpha$")

#: Which of a model and an adapter in one folder is meant.
Use = Literal["model", "adapter"]


def open_expert(
    location: str, access: Access = DEFAULT_ACCESS, use: Use | None = None, known: KnownHeaders | None = None
) -> OpenedModel:
    """Read the headers of a model, of an adapter, or of ``model+adapter``.

    ``use``: which is meant where a folder holds both; ``known``: as of ``read_checkpoint``. Raises DamagedInputError
    naming file and tensor, StorageError, RecipeError.
    """
    model, adapter = split_location(location, access)
    if adapter is not None:
        return OpenedModel(location, open_checkpoint(model, access), open_adapter(adapter, access))
    folder, names = open_model(location, access)
    files = model_files(names)
    if use is None and ADAPTER_CONFIG in names and files:
        raise DamagedInputError(
            f"{location}: holds a model ({files[0]}) and an adapter ({ADAPTER_CONFIG}): which is meant?",
            "write `use: model` or `use: adapter` in the recipe, beside this `model:`",
        )
    if use == "adapter" or (use is None and ADAPTER_CONFIG in names):
        return OpenedModel(location, None, _read_adapter(location, folder, names))
    whole = read_checkpoint(location, folder, names, known)
    if whole.tensors and all(_LORA.search(name) for name in whole.tensors):  # some models have factors of their own
        raise DamagedInputError(
            f"{location}: holds only factors of LoRA ({next(iter(whole.tensors))!r}), and no {ADAPTER_CONFIG} says how "
            "they are scaled",
            "save the adapter with PEFT's save_pretrained; one of diffusers or Kohya: fuse it into its base first",
        )
    return OpenedModel(location, whole, None)


def open_adapter(location: str, access: Access = DEFAULT_ACCESS) -> Adapter:
    """Read an adapter's configuration and header.

    Raises DamagedInputError naming file, tensor and configuration key unless it is a well-formed plain LoRA.
    """
    return _read_adapter(location, *open_model(location, access))


def _read_adapter(location: str, folder: Storage, names: list[str]) -> Adapter:
    files = _files(folder, names)
    where = f"{location}/{files[0]}"
    identity = folder.stat(ADAPTER_CONFIG)
    if identity is None:
        raise DamagedInputError(f"{folder.location}/{ADAPTER_CONFIG}: gone while it was being opened")
    text = folder.read_pinned(identity, 0, identity.size)
    config = parse_adapter_config(text, f"{folder.location}/{ADAPTER_CONFIG}")
    specs: dict[str, TensorSpec] = {}
    identities = [identity]
    for file in files:
        identity, of_file = open_file(folder, file)
        identities.append(identity)
        for key, spec in of_file.items():
            if key in specs:
                raise DamagedInputError(f"{location}/{file}: tensor {key!r} is there twice: in {specs[key].file} too")
            specs[key] = spec
    tensors = read_adapter_tensors(specs, where, config.use_dora)
    for pairs in tensors.pairs.values() if not config.target_parameters else ():
        for pair in pairs:
            require_rank(pair, config.scale(pair.module)[0], where)
    named = {f"{module}.weight": pairs for module, pairs in tensors.pairs.items()}
    return Adapter(location, tuple(identities), named, tensors.saved, config)


def attach(opened: OpenedModel, base: Checkpoint) -> Expert:
    """An expert over ``base``. Raises PlanError naming the adapter's file and tensor for factors without a tensor of
    their name and shape."""
    if opened.adapter is None:
        assert opened.model is not None
        return Expert(opened.model, None, opened.model, {})
    adapter, below = opened.adapter, opened.model or base
    tensors = {**below.tensors, **adapter.saved}
    attaching = Attaching(adapter.config, f"{adapter.location}/{ADAPTER_FILE}", below, tensors)
    factors: dict[str, tuple[AdapterFactors, ...]] = {}
    for name, pairs in adapter.pairs.items():
        for target, added in attaching.factors(name, pairs).items():
            factors[target] = (*factors.get(target, ()), *added)
    factors = {name: tuple(sorted(blocks, key=lambda one: one.first)) for name, blocks in factors.items()}
    whole = Checkpoint(opened.location, adapter.files, tensors, below.config)
    return Expert(opened.model, adapter, whole, factors)


def attach_to_base(opened: OpenedModel) -> tuple[Expert, Checkpoint]:
    """The base over itself, and as a checkpoint: of a model with an adapter, the one that merging it would give."""
    assert opened.model is not None
    over = attach(opened, opened.model)
    if over.adapter is None:
        return over, opened.model
    return over, replace(
        opened.model, tensors={name: structs.replace(s, name=name) for name, s in over.whole.tensors.items()}
    )


def _files(folder: Storage, names: list[str]) -> list[str]:
    """The files of an adapter's tensors: one, or all shards of it."""
    location = folder.location
    if ADAPTER_CONFIG not in names:
        raise DamagedInputError(f"{location}: no adapter: {ADAPTER_CONFIG} is missing", "save it with save_pretrained")
    if ADAPTER_FILE in names:
        return [ADAPTER_FILE]
    shards = sorted(name for name in names if is_adapter_file(name) and name.startswith("adapter_model-"))
    if (incomplete := missing_shards(shards)) is not None:
        _, count, missing = incomplete
        raise DamagedInputError(
            f"{location}: {missing[0]} is missing, one of {count} shards of the adapter", "download it again"
        )
    if shards:
        return [name for name in shards if name.endswith(".safetensors")]
    if any(name.endswith("adapters.safetensors") for name in names):
        raise DamagedInputError(
            f"{location}: an adapter of MLX (adapters.safetensors), which is laid out in another way",
            "fuse it with its base first: mlx_lm.fuse --model BASE --adapter-path DIR --save-path new_path",
        )
    if "adapter_model.bin" in names:
        raise DamagedInputError(
            f"{location}: only a pickled adapter (adapter_model.bin); reading a pickle can run any code: refused",
            "convert it where you trust it: load it with peft, then save_pretrained(new_path)",
        )
    raise DamagedInputError(
        f"{location}: {ADAPTER_CONFIG} without {ADAPTER_FILE}",
        "save the adapter again; if a whole model lies in the same folder, `use: model` reads that",
    )
