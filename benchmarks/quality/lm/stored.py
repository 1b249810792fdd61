"""Merges of models that are stored in codes: what FP8 and four bits cost each method."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.quality.lm.grid import ALONE, QUANTISED
from benchmarks.quality.lm.places import evaluator, place
from benchmarks.quality.lm.rows import chosen
from benchmarks.quality.merging import Place, measure
from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers


@dataclass(frozen=True)
class Format:
    """``codec``: of a matrix of this shape; ``config``: what config.json says of the weights."""

    codec: Callable[[tuple[int, int]], Codec]
    config: dict[str, Any]


_INT4 = {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}
FORMATS = {
    "int4": Format(
        lambda shape: PackedIntegers(shape, "compressed-tensors"),
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": _INT4}},
    ),
    "fp8": Format(lambda shape: Fp8Block(shape, "deepgemm"), {"quant_method": "fp8", "weight_block_size": [128, 128]}),
}


def measure_format(work: Path, kind: str, count: int, name: str) -> None:
    """Write scores of merges of base and experts stored in a format, and of each expert of the format alone.

    The settings are those chosen for the same experts in bfloat16. The merged model is in bfloat16.
    """
    plain, form = place(work, 0, kind, count), FORMATS[name]
    folder = plain.folder / name
    models, keys = folder / "models", {"quantization": "none"}
    base, experts = models / "base", [models / task for task in plain.tasks]
    where = Place(base, folder, plain.tasks, tuple(experts), keys)
    rows = [variant for variant in chosen(work, kind, count, QUANTISED) if plain.file(variant, "test").exists()]
    wanted = [(where, variant) for variant in rows] + [
        (Place(base, folder / "alone" / task, (task,), (expert,), keys), ALONE)
        for task, expert in zip(plain.tasks, experts, strict=True)
    ]
    if all(one.file(variant, "test").exists() for one, variant in wanted):
        return
    for checkpoint, target in [(plain.base, base), *zip(plain.experts, experts, strict=True)]:
        _store(checkpoint, target, form)
    for one, variant in wanted:
        measure([variant], one, evaluator(work), ["test"])
    shutil.rmtree(models)


def _store(checkpoint: Path, target: Path, form: Format) -> None:
    """Write a copy of a checkpoint with the matrices of its layers in codes, unless the copy exists."""
    if target.exists():
        return
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors: dict[str, Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            tensors |= _codes(name, tensor, form) if name.endswith("_proj.weight") else {name: tensor}
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = form.config
    (partial / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    partial.rename(target)


def _codes(name: str, weight: Tensor, form: Format) -> dict[str, Tensor]:
    codec = form.codec((weight.shape[0], weight.shape[1]))
    parts = codec.encode(weight)
    return {name.removesuffix(".weight") + suffix: part.contiguous() for suffix, part in parts.items()}
