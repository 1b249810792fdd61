"""What quantisation does to task deltas: signs, what TIES and DARE keep, ranks, and what experts share.

A base and two experts of known deltas are stored in each format and decoded again. The deltas of the decoded models are
compared with the true ones. A delta is a low-rank part, half of which the experts share, with a small dense part. Its
size is its norm relative to the weights. Base and experts are both quantised, or (``bf16 experts``) the experts are
fine-tunes of the decoded base and are stored in bfloat16.

    python benchmarks/quantisation_noise.py
    python benchmarks/quantisation_noise.py --sizes 0.02 0.1 --shape 1024x1024
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

import svc_dist
from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.fp8_scaled import Fp8Scaled
from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp
from svc_dist.checkpoint.formats.codecs.nvfp4 import Nvfp4
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers

SEED = 5
RANK, DENSE = 32, 0.3  # of a true delta: its rank, and the share of its norm that is dense
DENSITY = 0.2

Matrix = tuple[int, int]
FORMATS: dict[str, Callable[[Matrix], Codec | None]] = {
    "bfloat16": lambda shape: None,
    "FP8, blocks of 128 x 128": lambda shape: Fp8Block(shape, "deepgemm"),
    "FP8, blocks, powers of two": lambda shape: Fp8Block(shape, "deepgemm", powers=True),
    "FP8 by row": lambda shape: Fp8Scaled(shape, "compressed-tensors", (shape[0], 1), scale_dtype="BF16"),
    "MXFP8": lambda shape: Mxfp(shape, "modelopt", 8, ".weight", codes_dtype="F8_E4M3"),
    "NVFP4": lambda shape: Nvfp4(shape, "modelopt", ".weight", ".weight_scale_2"),
    "INT4, groups of 32": lambda shape: PackedIntegers(shape, "compressed-tensors"),
    "MXFP4": lambda shape: Mxfp(shape, "openai"),
}


def stored(weight: Tensor, codec: Codec | None) -> Tensor:
    """What a weight is once it is stored and decoded."""
    weight = weight.bfloat16()
    if codec is None:
        return weight.float()
    whole = codec.whole(weight.float().abs().max(), weight.dtype) if codec.of_the_whole else {}
    return codec.decode(codec.encode(weight, whole))


def true_deltas(shape: Matrix, size: float, norm: float, random: torch.Generator) -> list[Tensor]:
    """Two deltas of this size relative to ``norm``, which share half of their directions."""
    rows, columns = shape
    left, right = torch.randn(rows, RANK // 2, generator=random), torch.randn(RANK // 2, columns, generator=random)
    deltas = []
    for _ in range(2):
        own = torch.randn(rows, RANK // 2, generator=random) @ torch.randn(RANK // 2, columns, generator=random)
        low, dense = left @ right + own, torch.randn(shape, generator=random)
        delta = low / low.norm() + DENSE * dense / dense.norm()
        deltas.append(delta * (size * norm / delta.norm()))
    return deltas


def largest(delta: Tensor, share: float) -> Tensor:
    """Which entries are this share of all, the largest; entries of 0 never are."""
    size = delta.abs().flatten()
    chosen = torch.zeros(size.shape, dtype=torch.bool)
    chosen[size.topk(int(size.numel() * share)).indices] = True
    return (chosen & (size > 0)).view(delta.shape)


def rank_of(delta: Tensor) -> int:
    """How many singular values hold 90 % of the energy."""
    energy = torch.linalg.svdvals(delta.double()).square()
    return int((energy.cumsum(0) < 0.9 * energy.sum()).sum()) + 1


def shared(deltas: Sequence[Tensor]) -> float:
    """SVC's factor for the sum of deltas, averaged by energy: 0.5 for two that are equal, 1 for nothing in common."""
    one = svc_dist.calibrate(deltas[0] + deltas[1], deltas)
    energy = one.sigma.square()
    return float((one.gamma * energy).sum() / energy.sum())


def directions(measured: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """How much of the true sum's leading directions, which the experts share, lies in those of the measured sum."""
    found, wanted = (torch.linalg.svd((one + other).double())[0][:, : RANK // 2] for one, other in (measured, right))
    return float((wanted.T @ found).square().sum() / (RANK // 2))


def relative(measured: Tensor, right: Tensor) -> float:
    return float((measured - right).norm() / right.norm())


def figures(measured: Sequence[Tensor], right: Sequence[Tensor]) -> list[str]:
    """A row: what is left of the true deltas in the measured ones, and of their merges."""
    one, true = measured[0], right[0]
    kept, wanted = largest(one, DENSITY), largest(true, DENSITY)
    merges = []
    for method, parameters in (("task_arithmetic", {}), ("ties", {"density": DENSITY})):
        both = (svc_dist.merge_deltas(each, method, **parameters) for each in (measured, right))
        merges.append(f"{relative(*both):.0%}")
    random = torch.Generator().manual_seed(SEED)
    drop = [(torch.rand(true.shape, generator=random) < DENSITY) / DENSITY for _ in right]
    dare = [sum(d * keep for d, keep in zip(each, drop, strict=True)) for each in (measured, right)]
    return [
        f"{relative(one, true):.0%}",
        f"{float((one.sign() == true.sign()).float().mean()):.0%}",
        f"{float((one.sign() == true.sign())[wanted].float().mean()):.0%}",
        f"{float((kept & wanted).sum() / wanted.sum()):.0%}",
        merges[0],
        merges[1],
        f"{relative(*dare):.0%}",  # type: ignore[arg-type]
        str(rank_of(one)),
        f"{directions(measured, right):.0%}",
        f"{shared(measured):.2f}",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="512x512")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.01, 0.05, 0.2])
    arguments = parser.parse_args()
    rows, columns = map(int, arguments.shape.split("x"))
    random = torch.Generator().manual_seed(SEED)
    base = torch.randn(rows, columns, generator=random) * 0.02
    noise = [[name, f"{relative(stored(base, codec((rows, columns))), base):.2%}"] for name, codec in FORMATS.items()]
    table(["stored as", "rounding, relative to the weights"], noise)
    head = ["stored as", "noise in a delta", "signs", "signs of the largest 20 %", "of these kept by TIES",
            "sum: error", "TIES: error", "DARE: error", "rank (90 %)", "shared directions", "SVC's factor"]  # fmt: skip
    for size in arguments.sizes:
        right = true_deltas((rows, columns), size, float(base.norm()), random)
        print(f"delta of {size:.0%} of the weights\n")
        exact = ["exact", "0%", "100%", "100%", "100%", "0%", "0%", "0%", str(rank_of(right[0])), "100%"]
        exact.append(f"{shared(right):.2f}")
        lines = [exact]
        for name, of in FORMATS.items():
            codec = of((rows, columns))
            start = stored(base, codec)
            models = [stored(base + delta, codec) for delta in right]
            lines.append([name, *figures([model - start for model in models], right)])
            if codec is not None and name in ("FP8, blocks of 128 x 128", "MXFP4"):
                start = start.bfloat16().float()
                tuned = [(start + delta).bfloat16().float() - start for delta in right]
                lines.append([f"{name}; bf16 experts", *figures(tuned, right)])
        table(head, lines)


if __name__ == "__main__":
    main()
