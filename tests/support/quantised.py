"""Small models stored in codes: each format with the names, dtypes and config of its family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.fp8_scaled import Fp8Scaled
from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp
from svc_dist.checkpoint.formats.codecs.nvfp4 import Nvfp4
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from tests.support.checkpoints import write_checkpoint

Matrix = tuple[int, int]


@dataclass(frozen=True)
class Family:
    """``codec``: of a matrix of this shape; ``config``: what the family's config.json says."""

    codec: Callable[[Matrix], Codec]
    config: Mapping[str, Any]


def _fp8(**more: Any) -> dict[str, Any]:
    return {"quant_method": "fp8", "weight_block_size": [16, 32], **more}


def _groups(**weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


FAMILIES = {
    "fp8 blocks": Family(lambda shape: Fp8Block(shape, "deepgemm", (16, 32)), _fp8()),
    "fp8 blocks, powers of two": Family(
        lambda shape: Fp8Block(shape, "deepgemm", (16, 32), powers=True), _fp8(scale_fmt="ue8m0")
    ),
    "fp8 blocks, bfloat16 scales": Family(
        lambda shape: Fp8Block(shape, "deepgemm", (16, 32), scale_dtype="BF16"), _fp8()
    ),
    "fp8 channels": Family(
        lambda shape: Fp8Scaled(shape, "compressed-tensors", (shape[0], 1), scale_dtype="BF16"), _groups(num_bits=8)
    ),
    "fp8 tensor": Family(lambda shape: Fp8Scaled(shape, "modelopt", ()), {"quant_method": "modelopt"}),
    "mxfp4": Family(lambda shape: Mxfp(shape, "compressed-tensors"), _groups(num_bits=4, group_size=32)),
    "mxfp8": Family(
        lambda shape: Mxfp(shape, "modelopt", 8, ".weight", codes_dtype="F8_E4M3"), {"quant_method": "modelopt"}
    ),
    "nvfp4": Family(lambda shape: Nvfp4(shape, "modelopt", ".weight", ".weight_scale_2"), {"quant_method": "modelopt"}),
    "int4": Family(lambda shape: PackedIntegers(shape, "compressed-tensors"), _groups(num_bits=4, group_size=32)),
    "int4 with zero points": Family(
        lambda shape: PackedIntegers(shape, "compressed-tensors", zero_points=True), _groups(num_bits=4, group_size=32)
    ),
}


def encoded(weight: Tensor, codec: Codec) -> dict[str, Tensor]:
    """The parts of a matrix."""
    return codec.encode(weight, codec.whole(weight.float().abs().max(), weight.dtype) if codec.of_the_whole else {})


def quantised(tensors: Mapping[str, Tensor], family: Family) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors as a family stores them, matrices of ``*_proj.weight`` in codes; and what they are decoded to."""
    stored, decoded = dict(tensors), {name: tensor.float() for name, tensor in tensors.items()}
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            codec = family.codec((weight.shape[0], weight.shape[1]))
            parts = encoded(weight, codec)
            del stored[name]
            stored |= {name.removesuffix(".weight") + suffix: part.contiguous() for suffix, part in parts.items()}
            decoded[name] = codec.decode(parts)
    return stored, decoded


def gpt_oss_experts(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Fused experts ``(E, in, out)`` as gpt-oss stores them, and what they are decoded to."""
    codec = Mxfp((weight.shape[2], weight.shape[1]), "openai", 4, "_blocks", "_scales", blocked=True)
    each = [codec.encode(one.T.contiguous()) for one in weight]
    stored = {name + suffix: torch.stack([one[suffix] for one in each]) for suffix in ("_blocks", "_scales")}
    return stored, torch.stack([codec.decode(one).T for one in each])


def tensors_of(seed: int, shapes: Mapping[str, Matrix | tuple[int]], size: float = 0.1) -> dict[str, Tensor]:
    """Random bfloat16 tensors of these shapes."""
    random = torch.Generator().manual_seed(seed)
    return {name: (size * torch.randn(shape, generator=random)).bfloat16() for name, shape in shapes.items()}


def write_quantised(folder: Path, tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Write a model as a family stores it, over two files, so that codes and scales lie apart: what it decodes to."""
    stored, decoded = quantised(tensors, family)
    config = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "quantization_config": family.config}
    write_checkpoint(folder, dict(sorted(stored.items(), key=lambda item: item[0][::-1])), shards=2, config=config)
    return decoded
