"""The merges as recipes: methods, their grids, and SVC on top of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

TASK_SCALES = (0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
CALIBRATED_SCALES = (0.1, 0.3, 1.0)
ALPHAS = ("1/K", "0.5", "1")
RANK_RULES = ("participation_sqrt", "participation", "entropy", "stable_rank", "cumvar_0.9", "cumvar_0.99",
              "gavish_donoho")  # fmt: skip

#: The tensors that SVC does not apply to: everything except matrices.
REST = ["embeddings.*", "*.bias", "*LayerNorm.weight"]


@dataclass(frozen=True)
class Variant:
    """One merge. ``family``: the name of a table's row, with the best setting on validation texts for each alpha.

    ``alpha``: SVC's alpha, ``1/K`` for the default, None for no SVC. ``then``: calibrations after SVC, by name.
    ``spared``: patterns of tensors without calibration. ``scales``: a ``lambda`` for each tensor. ``rest``: the weight
    of tensors that SVC does not apply to (embeddings, norms, biases), if it differs from that of the matrices.
    """

    family: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weight: float | None = None
    alpha: str | None = None
    spared: tuple[str, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict)
    rest: float | None = None
    then: tuple[str, ...] = ()

    @property
    def given(self) -> dict[str, Any]:
        """The parameters with the weight, if there is one."""
        return ({} if self.weight is None else {"weight": self.weight}) | dict(self.parameters)

    @property
    def setting(self) -> str:
        """The values of the grid, as readable text."""
        return ", ".join(f"{key} {value}" for key, value in self.given.items())

    @property
    def name(self) -> str:
        """A unique name for files."""
        parts = [self.family, self.setting.replace(" ", "=").replace(",=", ","), f"svc={self.alpha}" * bool(self.alpha)]
        parts += [*self.then, *(f"without {pattern}" for pattern in self.spared[:1])]
        parts += [f"rest={self.rest}"] if self.rest is not None else []
        return "_".join(part for part in parts if part).translate(str.maketrans({"/": "-", "*": "", " ": "-"}))

    @property
    def path(self) -> str:
        """The folder of the result, if one merge has several."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name)

    @property
    def calibration(self) -> str | dict[str, Any] | list[Any]:
        """``calibrate`` in a recipe."""
        svc = {"method": "svc"} | ({"alpha": float(self.alpha)} if self.alpha not in (None, "1/K") else {})
        steps = [*([svc] if self.alpha is not None else []), *self.then]
        return "none" if not steps else svc if steps == [svc] else steps

    def recipe(
        self,
        base: Path,
        experts: Sequence[Path],
        results: Sequence[Variant] = (),
        keys: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """The recipe as YAML, with further ``keys``.

        ``results``: variants that differ in parameters and calibrations only, to be merged in one pass.
        """
        several = len(results) > 1
        own = {} if several or self.weight is None else {"parameters": {"weight": self.weight}}
        data: dict[str, Any] = {
            "base_model": str(base),
            "models": [{"model": str(expert)} | own for expert in experts],
            "merge_method": self.method,
        }
        if several:
            data["outputs"] = [
                {"path": variant.path, "calibrate": variant.calibration}
                | ({"parameters": variant.given} if variant.given else {})
                for variant in results
            ]
        else:
            data |= {"parameters": dict(self.parameters)} if self.parameters else {}
            data |= {"calibrate": self.calibration} if self.calibration != "none" else {}
        rules: list[dict[str, Any]] = [{"match": pattern, "calibrate": "none"} for pattern in self.spared]
        rules += [{"match": name, "parameters": {"lambda": value}} for name, value in self.scales.items()]
        if self.rest is not None:
            rules.append({"match": REST, "parameters": {"weight": self.rest}})
        if rules:
            data["rules"] = rules
        return yaml.safe_dump(data | dict(keys), sort_keys=False)


def by_merge(variants: Iterable[Variant]) -> list[list[Variant]]:
    """Group the variants by merge: variants that differ only in alpha are results of one pass."""
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        found.setdefault(replace(variant, alpha=None).name + str(sorted(variant.scales)), []).append(variant)
    return list(found.values())


def calibrated(variants: Sequence[Variant], alphas: Sequence[str] = ALPHAS) -> list[Variant]:
    """Each variant with SVC at each alpha."""
    return [
        Variant(v.family, v.method, v.parameters, v.weight, alpha, v.spared, v.scales)
        for v in variants
        for alpha in alphas
    ]


def _grid(family: str, method: str, key: str, values: Sequence[Any], **fixed: Any) -> list[Variant]:
    return [Variant(family, method, {**fixed, key: value}) for value in values]


AVERAGE = Variant("average", "linear")
TASK_ARITHMETIC = [Variant("task arithmetic", "task_arithmetic", weight=weight) for weight in TASK_SCALES]
TASK_ARITHMETIC_SVC = calibrated([v for v in TASK_ARITHMETIC if v.weight in CALIBRATED_SCALES])
WUDI = Variant("WUDI", "wudi")
SWUDI = [
    Variant("SWUDI", "swudi", {"exp_time": time, "rank_ratio": ratio})
    for time in (300, 1300) for ratio in (0.3, 0.65, 0.85)
]  # fmt: skip
SWUDI_A = [Variant("SWUDI-A", "swudi_a", {"rank_rule": rule}) for rule in RANK_RULES]
TSV_M = _grid("TSV-M", "tsv_m", "lambda", (0.5, 1.0))
#: At the default scale, plain and with SVC's defaults.
TSV_M_DEFAULT = [TSV_M[1], replace(TSV_M[1], alpha="1/K")]
_OTHERS = [
    *_grid("TIES", "ties", "lambda", (1.0, 2.0), density=0.2),
    *[Variant("DARE", "dare_linear", {"density": 0.5}, weight) for weight in (0.3, 1.0)],
    *_grid("STAR", "star", "lambda", (1.0, 2.0)),
    *_grid("Iso-C", "iso_c", "lambda", (1.0, 1.5)),
    *_grid("Iso-CTS", "iso_cts", "lambda", (1.0, 1.5)),
    Variant("OptMerge", "optmerge"),
]

#: All merges of all experts; the first seed's validation texts choose the setting for each family and alpha.
GRID: list[Variant] = [
    AVERAGE, *TASK_ARITHMETIC, *TASK_ARITHMETIC_SVC, WUDI, *SWUDI, *SWUDI_A[:1], *TSV_M,
    *calibrated([AVERAGE, WUDI, *TSV_M, *[v for v in SWUDI if v.parameters["rank_ratio"] == 0.65], *SWUDI_A[:1]]),
    *_OTHERS, *calibrated(_OTHERS), *SWUDI_A[1:],
]  # fmt: skip

#: SVC at 1/K on three scales of the sum, the sum itself, and the usual scale.
SCALED: list[Variant] = [
    *(v for weight in (1.0, 0.3, 0.1) for v in TASK_ARITHMETIC_SVC if (v.weight, v.alpha) == (weight, "1/K")),
    *(v for v in TASK_ARITHMETIC if v.weight in (0.3, 1.0)),
]  # fmt: skip

#: The same scales for the matrices only; all other tensors have the usual scale.
MATRICES_SCALED = [
    Variant("task arithmetic", "task_arithmetic", weight=weight, alpha=alpha, rest=0.3)
    for alpha in ("1/K", None)
    for weight in (1.0, 0.3, 0.1)
]

#: The sum at other norms; its scales are measured and appear only in its recipe.
NORM_MATCHED = Variant("norm-matched", "task_arithmetic")

_MAIN_FAMILIES = ("average", "task arithmetic", "WUDI", "SWUDI", "SWUDI-A", "TSV-M")
#: The merges of other numbers of experts.
MAIN: list[Variant] = [variant for variant in GRID if variant.family in _MAIN_FAMILIES]

LAYERS = 6
#: Name patterns of the parts of a layer: attention and feed-forward.
PARTS = {
    "attention": ("encoder.layer.{}.attention.*.weight",),
    "feed-forward": ("encoder.layer.{}.intermediate.dense.weight", "encoder.layer.{}.output.dense.weight"),
}


def layer_variants() -> list[Variant]:
    """SVC on the plain sum except for one part of one layer, for every part."""
    return [
        Variant("spared", "task_arithmetic", weight=1.0, alpha="1/K", spared=tuple(p.format(layer) for p in patterns))
        for layer in range(LAYERS)
        for patterns in PARTS.values()
    ]


def norm_matched(base: Path, experts: Sequence[Path], calibrated: Path) -> dict[str, float]:
    """For each matrix, the scale that gives the plain sum the norm of the calibrated one (``calibrated``: a model)."""
    start = load_file(base / "model.safetensors")
    deltas = [load_file(expert / "model.safetensors") for expert in experts]
    result = load_file(next(calibrated.glob("*.safetensors")))
    report = json.loads((calibrated / "merge_report.json").read_text(encoding="utf-8"))
    scales = {}
    for name in sorted({entry["tensor"] for entry in report["matrices"]}):
        total = sum(delta[name].double() - start[name].double() for delta in deltas)
        kept = result[name].double() - start[name].double()
        scales[name] = float(torch.linalg.norm(kept) / torch.linalg.norm(torch.as_tensor(total)))
    return scales
