"""What a receipt says of a matrix: every method and SVC say what they should, and it is true."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from svc_dist.linalg.svd import leading_values
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.registry import METHODS
from svc_dist.methods.spectral.rank_rules import rank
from tests.support import spectral_references as plain
from tests.support.elementwise_references import parameters
from tests.support.spectral_cases import SPECTRAL, adapters, fine_tunes, merge_matrix, stack, taken

#: What each method says beside ``matrix``, ``singular_values`` and ``sigma``.
DECOMPOSED = {"kept_rank", "cut", "residual"}
LIFTED = {"cut_as_storage_rounding", *DECOMPOSED}  # of methods that give small directions more strength
OWN = {
    "wudi": {"steps", "gradient_norm"},
    "optmerge": {"steps", "gradient_norm", *DECOMPOSED},
    "star": {"kept_ranks", *LIFTED},
    "iso_c": LIFTED,
    "iso_cts": {"common_rank", *LIFTED},
    "tsv_m": LIFTED,
}
SVC = {
    "sigma", "sigma_calibrated", "gamma", "gamma_min", "gamma_median", "gamma_max", "gamma_by_energy", "inflation",
    "inflation_by_expert", "ratio_min", "ratio_median", "ratio_max", "at_floor", "calibrated_rank",
    "calibration_residual", "norm_merged", "norm_calibrated", "norm_changed",
}  # fmt: skip
EXPERTS = 3
SHAPES = [(14, 12), (12, 14)]  # receipts carry all of so short a spectrum
ROUNDING = {"float64": 1e-12, "mixed": 3e-6}


def merged(name: str, deltas: TaskDeltas, calibration: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
    given = {"steps": 20} if name in ("wudi", "optmerge") else {}
    summaries: list[dict[str, Any]] = []
    result = merge_matrix(deltas, METHODS[name], parameters(name, len(deltas), **given), calibration, summaries)
    return result.double(), json.loads(json.dumps(summaries[0], allow_nan=False))


def spectrum(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix.double())


def same(found: list[float], expected: Tensor | list[float], tolerance: float) -> bool:
    """Whether the numbers are those expected, to a share of the largest one."""
    left, right = torch.tensor(found, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    return left.shape == right.shape and float((left - right).abs().max()) <= tolerance * float(right.abs().max())


def decomposed(name: str, deltas: Tensor) -> Tensor:
    """The singular values of what a method decomposes, of ``(K, m, n)``, descending."""
    leading = min(deltas.shape[1:]) // EXPERTS
    match name:
        case "tsv_m" | "optmerge":
            found = torch.cat([spectrum(delta)[:leading] for delta in deltas])
        case "star":
            found = torch.cat([spectrum(delta)[: star_rank(delta)] for delta in deltas])
        case "swudi" | "swudi_a":
            found = torch.linalg.eigvalsh(plain.normalised(deltas)[0]).clamp_min(0).sqrt()
        case "iso_cts":
            found = spectrum(deltas.sum(0))[: min(deltas.shape[1:]) - EXPERTS]  # one direction is each expert's own
        case _:
            found = spectrum(deltas.sum(0))
    return found.sort(descending=True).values[:16]


def star_rank(delta: Tensor) -> int:
    values = spectrum(delta)
    return int((values.cumsum(0) / values.sum() < 0.4).sum()) + 1


def kept(name: str, deltas: Tensor) -> int:
    columns = deltas.shape[2]
    if name == "swudi":
        return math.ceil(0.65 * columns)
    if name == "swudi_a":
        lam = torch.linalg.eigvalsh(plain.normalised(deltas)[0]).flip(0).clamp_min(1e-8)
        return rank("participation_sqrt", lam, (EXPERTS * deltas.shape[1], columns))
    return sum(star_rank(delta) for delta in deltas) if name == "star" else min(deltas.shape[1:])


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [*SPECTRAL, "task_arithmetic"])
def test_a_receipt_says_what_was_done_and_it_is_true(
    name: str, shape: tuple[int, int], side: str | None, precision: str
) -> None:
    if name == "task_arithmetic" and side is None:
        return  # nothing is decomposed
    tolerance = ROUNDING[precision]
    deltas = taken(fine_tunes(*shape, EXPERTS), precision)
    exact = stack(deltas)
    calibration = None if side is None else {"method": "svc", "alpha": 0.4, "side": side}
    result, said = merged(name, deltas, calibration)
    before, _ = merged(name, deltas, None)

    own = {"matrix", "sigma", "singular_values"} | OWN.get(name, DECOMPOSED) if name in SPECTRAL else {"matrix"}
    assert said.keys() == own | (SVC if calibration else set())
    assert said["matrix"] == 0
    assert same(said["sigma"], spectrum(before), 10 * tolerance)
    if name in SPECTRAL:
        assert same(said["singular_values"], decomposed(name, exact), 10 * tolerance)
    if "residual" in own:
        assert said["kept_rank"] == kept(name, exact)
        assert said["cut"] == 0
        assert 0 < said["residual"] <= tolerance
    if "steps" in own:
        assert said["steps"] == 20
        assert 0 < said["gradient_norm"][1] < said["gradient_norm"][0]
    if calibration:
        agrees_with_algorithm_1(said, result, before, calibration["alpha"], tolerance)
        for key, matrix in (("merged", before), ("calibrated", result), ("changed", result - before)):
            assert said[f"norm_{key}"] == pytest.approx(float(torch.linalg.matrix_norm(matrix.double())), rel=1e-4)


def agrees_with_algorithm_1(
    said: dict[str, Any], result: Tensor, before: Tensor, alpha: float, tolerance: float
) -> None:
    sigma, gamma = (torch.tensor(said[key], dtype=torch.float64) for key in ("sigma", "gamma"))
    assert bool((sigma.diff() <= 10 * tolerance * sigma[0]).all()), "descending"
    assert same(said["sigma_calibrated"], sigma * gamma, 1e-6)
    assert same((sigma * gamma).sort(descending=True).values.tolist(), spectrum(result), 10 * tolerance)
    assert bool((gamma > 0).all())
    assert float(gamma.max()) <= (1 + 1e-6) / alpha
    resolved = spectrum(before) > 1e-5 * spectrum(before)[0]
    assert said["calibrated_rank"] == int(resolved.sum())
    energy = sigma.square() / sigma.square().sum()
    assert said["gamma_by_energy"] == pytest.approx(float(energy @ gamma), rel=1e-5)
    gamma, energy = gamma[resolved], energy[resolved]
    assert said["gamma_min"] == pytest.approx(float(gamma.min()))
    assert said["gamma_median"] == pytest.approx(float(gamma.median()))
    assert said["gamma_max"] == pytest.approx(float(gamma.max()))
    # gamma is one over the mean of the ratios, none of them below alpha.
    assert said["ratio_min"] <= said["ratio_median"] <= said["ratio_max"]
    assert 1 / max(alpha, said["ratio_max"]) <= said["gamma_min"] * (1 + 1e-6)
    assert said["gamma_max"] <= (1 + 1e-6) / max(alpha, said["ratio_min"])
    inflation = torch.tensor(said["inflation"], dtype=torch.float64)[resolved]
    assert bool((gamma <= (1 + 1e-5) / inflation.clamp_min(alpha)).all()), "the floor only raises ratios"
    assert said["ratio_min"] <= float(inflation.min()) <= float(inflation.max()) <= said["ratio_max"]
    assert len(said["inflation_by_expert"]) == EXPERTS
    assert sum(said["inflation_by_expert"]) / EXPERTS == pytest.approx(float(energy @ inflation), rel=1e-5)
    assert (said["at_floor"] > 0) == (said["ratio_min"] <= alpha)
    assert 0 <= said["at_floor"] <= 1
    assert 0 <= said["calibration_residual"] <= tolerance


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts", "optmerge", "swudi_a"])
def test_a_receipt_counts_what_was_cut_at_rounding_level(name: str, precision: str) -> None:
    deltas = TaskDeltas(adapters(14, 12, (2, 2, 2)), precision=precision)  # 6 directions of 12
    given = {"rank_rule": "cumvar_1.0"} if name == "swudi_a" else {}
    summary = METHODS[name].load()(deltas, **parameters(name, 3, **given)).summary
    assert (summary["kept_rank"], summary["cut"]) == (6, 6)
    for side in ("left", "right"):
        said = merged(name, deltas, {"method": "svc", "alpha": 0.4, "side": side})[1]
        if name in ("tsv_m", "iso_c", "iso_cts"):  # the others leave rounding in the rest of the space
            assert said["calibrated_rank"] == 6


def test_a_receipt_of_experts_that_cancel_holds_no_nonsense() -> None:
    delta = stack(taken(fine_tunes(14, 12, 1), "float64"))[0]
    for name in SPECTRAL:
        deltas = TaskDeltas([delta, -delta], precision="float64")
        _, said = merged(name, deltas, {"method": "svc", "alpha": 0.4, "side": "left"})
        assert all(math.isfinite(value) for value in said["sigma_calibrated"]), name


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (30, 400), (1, 5)], ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scale", [1.0, 1e-41, 1e37])
def test_leading_values_are_known_within_some_percent(shape: tuple[int, int], decay: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    size = min(shape)
    left, right = (torch.linalg.qr(torch.randn(side, size, generator=generator)).Q for side in shape)
    values = torch.arange(1, size + 1) ** -decay
    matrix = (left * values) @ right.T * scale
    found = torch.tensor(leading_values(matrix, 16), dtype=torch.float64) / scale
    share = found / values[:16]
    assert float(share.min()) >= 0.8
    assert float(share.max()) <= 1.01 if scale > 1e-30 else 1.2
    assert float(share[0]) >= 0.95


def test_leading_values_of_nothing_and_of_too_much() -> None:
    assert leading_values(torch.zeros(3, 5), 16) == [0.0] * 3
    assert leading_values(torch.full((3, 5), math.inf), 16) == []
    assert leading_values(torch.full((3, 5), math.nan), 16) == []
