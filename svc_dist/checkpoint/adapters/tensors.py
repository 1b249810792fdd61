"""The tensors of one adapter file: pairs of factors by the module that they are for, and whole tensors.

PEFT names a factor ``base_model.model.<module>.lora_A.weight``. A file that was written from a state dict names the
adapter as well (``lora_A.default.weight``), and training frameworks leave their wrappers' names in between.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from svc_dist.checkpoint.adapters.config import MERGE_FIRST
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import DamagedInputError

_PREFIX = "base_model.model."
_ADAPTER = r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?"
_FACTOR = re.compile(rf"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB]){_ADAPTER}(?P<weight>\.weight)?")
_MAGNITUDE = re.compile(rf"(?P<module>.+)\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?")
_OTHER_LAYERS = re.compile(r"\.lora_|\.token_adapter\.|\.hada_|\.lokr_|\.oft_|\.boft_|\.ia3_|\.vera_")
#: Modules that FSDP, torch.compile and activation checkpointing put around others; they are part of no weight's name.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True, slots=True)
class Pair:
    """The factors ``a (r, in)`` and ``b (out, r)`` of a module, or of one of its parameters; as the adapter names it.

    ``wrapped``: how many other pairs of the same module lie around this one: PEFT nests the pairs of a module with
    several target parameters. ``magnitude``: DoRA's lengths of the merged weight's rows.
    """

    module: str
    wrapped: int
    a: TensorSpec
    b: TensorSpec
    magnitude: TensorSpec | None

    @property
    def embedding(self) -> bool:
        """Whether the weight is stored ``(in, out)``: an embedding's has a row for each token."""
        return "lora_embedding_" in self.a.name


@dataclass
class AdapterTensors:
    """``pairs``: by the name of their module, innermost first; ``saved``: whole tensors by their own name."""

    pairs: Mapping[str, tuple[Pair, ...]]
    saved: Mapping[str, TensorSpec]


@dataclass
class _Layer:
    """What was read for one module at one depth."""

    factors: dict[str, TensorSpec] = field(default_factory=dict)
    magnitude: TensorSpec | None = None


def read_adapter_tensors(tensors: Mapping[str, TensorSpec], where: str, use_dora: bool) -> AdapterTensors:
    """Sort the tensors of an adapter's file, which ``where`` names.

    Raises DamagedInputError naming the tensor that belongs to no LoRA layer, or that is missing.
    """
    layers: dict[tuple[str, int], _Layer] = {}
    saved: dict[str, TensorSpec] = {}
    adapters: dict[str, str] = {}  # names of adapters, each with the first tensor that has it
    for key, spec in tensors.items():
        name = _name(key, spec, where)
        factor = _FACTOR.fullmatch(name)
        if factor is not None and (factor["weight"] is None) == (factor["embedding"] is not None):
            adapters.setdefault(factor["adapter"] or "", key)
            factors = _layer(layers, factor["module"]).factors
            if factor["side"] in factors:
                raise _twice(key, factors[factor["side"]], where, adapters)
            factors[factor["side"]] = spec
        elif use_dora and (magnitude := _MAGNITUDE.fullmatch(name)) is not None:
            layer = _layer(layers, magnitude["module"])
            if layer.magnitude is not None:
                raise _twice(key, layer.magnitude, where, adapters)
            layer.magnitude = spec
        elif _OTHER_LAYERS.search(name):
            raise DamagedInputError(f"{where}: tensor {key!r} belongs to no plain LoRA layer", MERGE_FIRST)
        else:
            saved[name] = spec
    if len(adapters) > 1:
        raise _several(where, adapters)
    if not layers and not saved:
        raise DamagedInputError(f"{where}: holds no tensor", "save the adapter again")
    pairs: dict[str, list[Pair]] = {}
    for (module, wrapped), layer in layers.items():
        pairs.setdefault(module, []).append(_pair(module, wrapped, layer, where, use_dora))
    ordered = {module: tuple(sorted(those, key=lambda pair: -pair.wrapped)) for module, those in pairs.items()}
    return AdapterTensors(ordered, _whole(saved, next(iter(adapters), "") or "default", where))


def _name(key: str, spec: TensorSpec, where: str) -> str:
    """The name without PEFT's prefix and without wrappers."""
    if spec.dtype not in FLOAT_DTYPES:
        raise DamagedInputError(f"{where}: tensor {key!r} has dtype {spec.dtype}", "adapters hold plain floats")
    if spec.numel == 0:
        raise DamagedInputError(
            f"{where}: tensor {key!r} of shape {list(spec.shape)} is empty: DeepSpeed ZeRO-3 leaves this where a "
            "model is saved without gathering its weights",
            "save the adapter again with stage3_gather_16bit_weights_on_model_save (accelerate: "
            "zero3_save_16bit_model), or from the checkpoint by DeepSpeed's zero_to_fp32.py",
        )
    name = _WRAPPERS.sub("", key).removeprefix("module.")
    if not name.startswith(_PREFIX):
        raise DamagedInputError(f"{where}: tensor {key!r} does not begin with {_PREFIX!r}", MERGE_FIRST)
    return name.removeprefix(_PREFIX)


def module_of(key: str) -> str:
    """The module that a factor is for, by the factor's name in its file; empty for other tensors."""
    factor = _FACTOR.fullmatch(_WRAPPERS.sub("", key).removeprefix("module.").removeprefix(_PREFIX))
    return "" if factor is None else factor["module"].replace(".base_layer", "")


def _layer(layers: dict[tuple[str, int], _Layer], wrapped: str) -> _Layer:
    module = wrapped.replace(".base_layer", "")
    return layers.setdefault((module, wrapped.count(".base_layer")), _Layer())


def _pair(module: str, wrapped: int, layer: _Layer, where: str, use_dora: bool) -> Pair:
    factors = layer.factors
    if len(factors) < 2:
        one = next(iter(factors.values()), layer.magnitude)
        assert one is not None
        missing = "lora_B" if "A" in factors else "lora_A"
        raise DamagedInputError(
            f"{where}: tensor {one.name!r} has no partner: {missing} is missing", "save the adapter again"
        )
    if use_dora and layer.magnitude is None:
        raise DamagedInputError(
            f"{where}: tensor {factors['A'].name!r} has no lora_magnitude_vector, but use_dora is set",
            "save the adapter again",
        )
    a, b = factors["A"], factors["B"]
    if len(a.shape) < 2 or len(a.shape) != len(b.shape) or any(size != 1 for size in b.shape[2:]):
        raise DamagedInputError(
            f"{where}: tensors {a.name!r} of shape {list(a.shape)} and {b.name!r} of shape {list(b.shape)} are no "
            "factors of a matrix or a convolution",
            MERGE_FIRST,
        )
    return Pair(module, wrapped, a, b, layer.magnitude)


def _whole(saved: Mapping[str, TensorSpec], adapter: str, where: str) -> dict[str, TensorSpec]:
    """The whole tensors by the names of the tensors that they replace."""
    whole: dict[str, TensorSpec] = {}
    for name, spec in saved.items():
        target = name.replace(".base_layer.", ".").replace(f".modules_to_save.{adapter}.", ".")
        target = target.replace(".modules_to_save.", ".")
        if target in whole:
            raise _twice(spec.name, whole[target], where, {})
        whole[target] = spec
    return whole


def _twice(key: str, other: TensorSpec, where: str, adapters: Mapping[str, str]) -> DamagedInputError:
    if len(adapters) > 1:
        return _several(where, adapters)
    return DamagedInputError(f"{where}: tensor {key!r} is there twice: as {other.name!r} too")


def _several(where: str, adapters: Mapping[str, str]) -> DamagedInputError:
    first, second = list(adapters.values())[:2]
    return DamagedInputError(
        f"{where}: holds more than one adapter: tensor {second!r} beside {first!r}",
        "save each into a folder of its own: model.save_pretrained(path, selected_adapters=[name])",
    )
