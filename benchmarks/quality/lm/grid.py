"""The merges of language models: rows of the tables, each with four settings to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.quality.variants import Variant

#: The number of settings of a row, so that no method is tuned more than another.
TRIALS = 4


def _scaled(family: str, method: str, values: Sequence[float], key: str = "lambda", **fixed: Any) -> list[Variant]:
    return [Variant(family, method, {**fixed, key: value}) for value in values]


def _weighted(family: str, method: str, values: Sequence[float], **fixed: Any) -> list[Variant]:
    return [Variant(family, method, fixed, weight) for weight in values]


AVERAGE = [Variant("average", "linear")]
TASK_ARITHMETIC = _weighted("task arithmetic", "task_arithmetic", (0.3, 0.5, 0.7, 1.0))
#: The row of a method with SVC has a family of its own, so that one choice is made over scales and alphas.
SVC = [
    Variant("task arithmetic + SVC", "task_arithmetic", {}, weight, alpha)
    for weight, alpha in ((1.0, "1/K"), (1.0, "0.5"), (1.0, "1"), (0.5, "1/K"))
]
TSV_M = _scaled("TSV-M", "tsv_m", (0.5, 0.75, 1.0, 1.5))
SWUDI = [
    Variant("SWUDI", "swudi", {"exp_time": time, "rank_ratio": ratio}) for time in (300, 1300) for ratio in (0.3, 0.85)
]
#: Of adapters, whose plain sum is too large: SWUDI's own settings have no scale.
SWUDI_SCALED = _scaled("SWUDI, scaled", "swudi", (0.2, 0.35, 0.5, 0.7), exp_time=300, rank_ratio=0.3)
SWUDI_A = [
    Variant("SWUDI-A", "swudi_a", {"rank_rule": rule})
    for rule in ("participation_sqrt", "entropy", "cumvar_0.99", "gavish_donoho")
]
TIES = [
    Variant("TIES", "ties", {"density": density, "lambda": scale}) for density in (0.2, 0.5) for scale in (0.7, 1.2)
]
DARE = _weighted("DARE", "dare_linear", (0.3, 0.5, 0.7, 1.0), density=0.5)
ISO_C = _scaled("Iso-C", "iso_c", (0.5, 0.75, 1.0, 1.5))
ISO_CTS = _scaled("Iso-CTS", "iso_cts", (0.5, 0.75, 1.0, 1.5))
MODEL_STOCK = [Variant("model stock", "model_stock")]
TSV_M_SVC = [
    Variant("TSV-M + SVC", "tsv_m", {"lambda": scale}, alpha=alpha) for scale in (0.5, 1.0) for alpha in ("1/K", "0.5")
]
SWUDI_SVC = [
    Variant("SWUDI + SVC", "swudi", {"exp_time": 300, "rank_ratio": ratio}, alpha=alpha)
    for ratio in (0.3, 0.85) for alpha in ("1/K", "0.5")
]  # fmt: skip
#: Alone, and after SVC.
MAGIC = [
    Variant("MAGIC", "task_arithmetic", {}, weight, alpha, then=("magic",))
    for weight in (1.0, 0.5) for alpha in ("1/K", None)
]  # fmt: skip
#: Weights that grow from the first layer to the last, as LARV scales layers (arXiv 2602.09413), with and without SVC.
BY_LAYER = [
    Variant("weights by layer", "task_arithmetic", {"weight": list(ends)}, alpha=alpha)
    for ends in ((0.3, 0.7), (0.5, 1.0)) for alpha in ("1/K", None)
]  # fmt: skip
ACE = _scaled("ACE", "ace", (0.5, 0.75, 1.0, 1.5))
RES_MERGE = _scaled("ResMerge", "resmerge", (0.5, 1.0, 1.5, 2.0))
RAM = _scaled("RAM", "ram", (0.3, 0.5, 0.7, 1.0))
RAM_PLUS = _scaled("RAM+", "ramplus_tl", (0.3, 0.5, 0.7, 1.0))

FIRST: list[Variant] = [*AVERAGE, *TASK_ARITHMETIC, *SVC]
SECOND: list[Variant] = [*TSV_M, *SWUDI, *TIES, *ISO_C]
CALIBRATED: list[Variant] = [*TSV_M_SVC, *SWUDI_SVC]
CANDIDATES: list[Variant] = [*MAGIC, *BY_LAYER, *ACE, *RES_MERGE]
OF_SPARSE: list[Variant] = [*RAM, *RAM_PLUS]
REST: list[Variant] = [*DARE, *ISO_CTS, *MODEL_STOCK]
#: The rows of the tables, in their order.
GRID: list[Variant] = [*FIRST, *SECOND, *SWUDI_SCALED, *SWUDI_A, *CALIBRATED, *REST, *CANDIDATES, *OF_SPARSE]
#: What further sets of experts measure.
MAIN: list[Variant] = [*FIRST, *TSV_M, *SWUDI]
MAIN_LORA: list[Variant] = [*FIRST, *TSV_M, *TSV_M_SVC, *SWUDI_SCALED]
BRIEF: list[Variant] = FIRST
#: What is measured of experts that are stored in codes.
QUANTISED: list[Variant] = [*TASK_ARITHMETIC, *SVC, *SWUDI, *TSV_M]

#: One expert, whole.
ALONE = Variant("alone", "task_arithmetic", weight=1.0)

PLAIN_SUM = Variant("plain sum", "task_arithmetic", weight=1.0)

#: The sum, matrix by matrix at the norm of the calibrated one; its scales are measured and appear only in its recipe.
NORM_MATCHED = Variant("norms of SVC", "task_arithmetic", weight=1.0)


def groups(grid: Iterable[Variant]) -> list[list[Variant]]:
    """The settings of each row."""
    found: dict[str, list[Variant]] = {}
    for variant in grid:
        found.setdefault(variant.family, []).append(variant)
    return list(found.values())


def norm_ratios(base: Path, calibrated: Path, plain: Path) -> dict[str, float]:
    """For each matrix that calibration changed: the norm of the calibrated delta over that of the plain one."""
    start, one, other = (_weights(folder) for folder in (base, calibrated, plain))
    ratios = {}
    for name in sorted(start):
        changed = other[name].double() - start[name].double()
        if start[name].ndim == 2 and not torch.equal(one[name], other[name]):
            ratios[name] = float(torch.linalg.norm(one[name].double() - start[name].double()) / changed.norm())
    return ratios


def _weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(file))
    return weights
