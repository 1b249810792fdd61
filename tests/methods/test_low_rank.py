"""Deltas of low rank: the same as their product, whichever part is asked for; and every method the same on both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.costs import HEAP_SLACK
from svc_dist.methods.deltas import Copy, TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.method import Method
from svc_dist.methods.registry import METHODS
from svc_dist.methods.spectral.costs import factored_memory
from svc_dist.methods.spectral.policy import factored_rank
from tests.support.elementwise_references import chunks_of, parameters
from tests.support.peak_memory import CountedMemory
from tests.support.spectral_cases import error, merge_matrix

FACTORED = tuple(name for name, method in METHODS.items() if method.factored is not None)


def changes(rows: int, columns: int, ranks: Sequence[int], seed: int = 0) -> list[LowRank]:
    """Adapters that share a direction or two, with scales of their own."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
    found = []
    for number, rank in enumerate(ranks):
        left, right = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
        left[:, :2] += shared[0][:, : left.shape[1]]
        right[:2] += shared[1][: len(right)]
        found.append(LowRank(left, right, (number + 1) / 10))
    return found


BASE_WEIGHTS: dict[str, dict[str, Any]] = {
    "linear": {"base_weight": 0.0}, "karcher": {"base_weight": 1.0},
    "nuslerp": {"base_weight": None}, "multislerp": {"base_weight": None},
}  # fmt: skip


def complete(name: str, experts: int, **given: Any) -> dict[str, Any]:
    return parameters(name, experts, **BASE_WEIGHTS.get(name, {}) | given)


def product(change: LowRank) -> Tensor:
    return change.scale * (change.left.double() @ change.right.double())


def both(parts: Sequence[LowRank | None], precision: str = "float64") -> tuple[TaskDeltas, TaskDeltas]:
    """The same deltas from their factors, and dense."""
    shape = next(part.shape for part in parts if part is not None)
    dense = [torch.zeros(shape, dtype=torch.float64) if part is None else product(part) for part in parts]
    factored = TaskDeltas([None] * len(parts), changes=parts, precision=precision, shape=shape)
    return factored, TaskDeltas(dense, precision=precision)


def merged(deltas: TaskDeltas, name: str, given: dict[str, Any], calibration: Any, found: list[Any]) -> Tensor:
    delta = merge_matrix(deltas, METHODS[name], complete(name, len(deltas), **given), calibration, found)
    return delta.dense(deltas.dtype, "cpu").view(deltas.shape) if isinstance(delta, LowRank) else delta


# --- The deltas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 5), (3, CHUNK + 10), (600, 700)], ids=str)
@pytest.mark.parametrize("of_a_model", [False, True])
def test_every_part_of_a_delta(shape: tuple[int, int], of_a_model: bool) -> None:
    (change,) = changes(*shape, [3])
    base = torch.randn(shape, dtype=torch.float64)
    model = base + torch.randn(shape, dtype=torch.float64) if of_a_model else None
    deltas = TaskDeltas([model], base, changes=[change], precision="float64")
    expected = product(change) + (0 if model is None else model - base)
    assert torch.allclose(deltas[0], expected, rtol=0, atol=1e-12)
    assert torch.allclose(deltas.model(0), base + expected, rtol=0, atol=1e-12)
    parts = [part[0] for part in deltas.chunks()]
    assert torch.allclose(torch.cat(parts), expected.reshape(-1), rtol=0, atol=1e-12)
    middle = deltas.chunk(3, deltas.numel - 2).chunk(1, 9)
    assert torch.allclose(middle[0], expected.reshape(-1)[4:12], rtol=0, atol=1e-12)
    assert torch.allclose(deltas.matrix(0, (1, *shape))[0], expected, rtol=0, atol=1e-12)
    sample = deltas.sample(deltas.numel // 3)
    dense = TaskDeltas([expected], precision="float64").sample(deltas.numel // 3)
    assert torch.allclose(sample[0], dense[0], rtol=0, atol=1e-12)
    assert torch.allclose(sample.chunk(2, 30)[0], dense.chunk(2, 30)[0], rtol=0, atol=1e-12)


def test_an_expert_that_is_the_base_has_a_zero_delta() -> None:
    base = torch.randn(6, 4)
    (change,) = changes(6, 4, [2])
    deltas = TaskDeltas([None, None], base, changes=[None, change])
    assert not deltas[0].any()
    assert torch.equal(deltas.model(0), base)
    assert not deltas.all_zero()
    assert deltas.chunk(0, 4)[1].any()
    assert TaskDeltas([None, None], base).all_zero()


def test_an_adapter_that_was_never_trained_is_zero_where_it_is_finite() -> None:
    left, right = torch.zeros(6, 2), torch.randn(2, 4)
    base = torch.randn(6, 4)
    assert TaskDeltas([None], base, changes=[LowRank(left, right)]).all_zero()
    assert TaskDeltas([base.clone()], base, changes=[LowRank(left, right)]).all_zero()
    left[4] = 1
    deltas = TaskDeltas([None], base, changes=[LowRank(left, right)])
    assert not deltas.all_zero()
    assert deltas.chunk(0, 16).all_zero(), "rows that the adapter leaves alone"
    left[4], right[0, 0] = 0, math.nan
    assert not TaskDeltas([None], base, changes=[LowRank(left, right)]).all_zero(), "the damage must show"


# --- Every method --------------------------------------------------------------------------------------------------

#: Few steps of the descents; random methods draw the same for both.
GIVEN: dict[str, dict[str, Any]] = {
    "wudi": {"steps": 3}, "optmerge": {"steps": 3}, "ties": {"density": [0.4] * 3},
    "dare_linear": {"density": [0.5] * 3}, "dare_ties": {"density": [0.5] * 3},
    "della": {"density": [0.5] * 3}, "della_linear": {"density": [0.5] * 3}, "sce": {"select_topk": 0.3},
    "breadcrumbs": {"density": [0.5] * 3}, "breadcrumbs_ties": {"density": [0.5] * 3},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_the_same_from_factors(name: str) -> None:
    method = METHODS[name]
    count = method.experts[1] or 3
    parts = changes(40, 30, [2, 3, 1][:count])
    base = torch.randn(40, 30, dtype=torch.float64)
    given = complete(name, count, **GIVEN.get(name, {}))
    batch = (1, 40, 30) if method.family == "spectral" else None
    results = []
    for experts, found in (([None] * count, parts), ([base + product(part) for part in parts], None)):
        deltas = TaskDeltas(experts, base, changes=found, precision="float64", tensor="t", row=30)
        total = torch.zeros(1200, dtype=torch.float64)
        for start, end, piece, part in chunks_of(deltas, name, given, None, batch):
            if isinstance(piece, Copy):
                piece = part[piece.expert].reshape(-1)
            elif isinstance(piece, LowRank):
                piece = piece.dense(torch.float64, "cpu")
            if piece is not None:
                total[start:end] = piece.reshape(-1)
        results.append(total)
    assert error(results[0], results[1]) < 1e-9


# --- The factored forms --------------------------------------------------------------------------------------------

CALIBRATIONS: list[Any] = [None, *({"method": "svc", "alpha": 0.5, "side": side} for side in ("left", "right"))]
MORE: dict[str, list[dict[str, Any]]] = {
    "linear": [{"weight": [0.5, 1.5, 1.0, 0.2], "base_weight": 0.3}],
    "task_arithmetic": [{"weight": [0.5, -1.5, 1.0, 0.2]}, {"weight": [0.5, 1.5, 1.0, 0.2], "normalize": True}],
    "swudi": [{"rank_ratio": 0.06}, {"exp_time": 3.0, "init": "mean"}, {"init": "zero"}],
    "swudi_a": [{"rank_rule": rule} for rule in ("cumvar_1.0", "entropy", "gavish_donoho")] + [{"init": "zero"}],
}
CASES = [(name, given) for name in FACTORED for given in [{}, *MORE.get(name, [])]]


@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=["plain", "svc left", "svc right"])
@pytest.mark.parametrize("shape", [(96, 80), (80, 96), (64, 640)], ids=str)
@pytest.mark.parametrize(("name", "given"), CASES, ids=lambda value: str(value))
def test_the_factored_form_is_exact(name: str, given: dict[str, Any], shape: tuple[int, int], calibration: Any) -> None:
    factored, dense = both(changes(*shape, [8, 3, 5, 8]))
    found: list[dict[str, Any]] = []
    result = merged(factored, name, given, calibration, found)
    expected = merged(dense, name, given, calibration, found)
    assert error(result, expected) < 1e-8
    own, other = found
    assert own.keys() == other.keys(), "a receipt has the same keys"
    assert (own.get("kept_rank"), own.get("cut")) == (other.get("kept_rank"), other.get("cut"))
    assert own.get("calibrated_rank", 0) <= 24, "the sum of the ranks: what is past it is zero, not small"
    assert own.get("gamma_by_energy", 0) == pytest.approx(other.get("gamma_by_energy", 0), rel=1e-6)
    flat = name == "iso_c"  # its directions come in any order
    for key in ("singular_values",) if flat else ("sigma", "sigma_calibrated", "gamma", "singular_values"):
        size = min(len(own.get(key, [])), 8)
        assert own.get(key, [])[:size] == pytest.approx(other.get(key, [])[:size], rel=0.2 if key == "sigma" else 1e-6)


@pytest.mark.parametrize("name", FACTORED)
def test_experts_that_do_not_touch_a_matrix_or_share_one_adapter(name: str) -> None:
    first, second = changes(60, 70, [6, 4])
    factored, dense = both([first, None, second, first])
    calibration = {"method": "svc", "alpha": 0.25, "side": "left"}
    assert error(merged(factored, name, {}, calibration, []), merged(dense, name, {}, calibration, [])) < 1e-8


@pytest.mark.parametrize("name", FACTORED)
@pytest.mark.parametrize("precision", ["mixed", "fast"])
def test_other_precisions_round_the_result_only(name: str, precision: str) -> None:
    parts = changes(96, 80, [8, 3, 5, 8])
    calibration = {"method": "svc", "alpha": 0.5, "side": "left"}
    exact = merged(both(parts)[0], name, {}, calibration, [])
    rounded = merged(both(parts, precision)[0], name, {}, calibration, [])
    assert rounded.dtype == torch.float32
    assert error(rounded, exact) < 5e-7


@pytest.mark.parametrize("name", FACTORED)
def test_it_is_used_where_it_pays_and_holds(name: str) -> None:
    method = METHODS[name]
    given = complete(name, 2)

    def form(method: Method, deltas: TaskDeltas, given: dict[str, Any]) -> type:
        return type(merge_matrix(deltas, method, given, {"method": "svc", "alpha": 0.5, "side": "left"}))

    low, high = both(changes(40, 30, [7, 8]))[0], both(changes(40, 30, [8, 8]))[0]
    assert form(method, low, given) is LowRank
    assert form(method, high, given) is Tensor, "past half the shorter side"
    assert factored_rank(40, 30, [7, 8]) == 15
    assert factored_rank(40, 30, [8, 8]) is None
    assert factored_rank(40, 30, [0, 0]) is None
    own = TaskDeltas([None, torch.randn(40, 30)], torch.randn(40, 30), changes=[changes(40, 30, [7])[0], None])
    assert form(method, own, given) is Tensor, "a whole model among the experts"


def test_linear_without_the_bases_share_is_no_sum_of_deltas() -> None:
    base = torch.randn(40, 30, dtype=torch.float64)
    parts = changes(40, 30, [3, 4])
    given = {"weight": [0.4, 0.4], "base_weight": 0.0, "normalize": False}
    deltas = TaskDeltas([None, None], base, changes=parts, precision="float64")
    delta = merge_matrix(deltas, METHODS["linear"], given, {"method": "svc", "alpha": 100.0, "side": "left"})
    assert isinstance(delta, Tensor)


@pytest.mark.parametrize("name", FACTORED)
def test_factors_that_are_not_finite_are_told_by_their_expert(name: str) -> None:
    first, second = changes(40, 30, [3, 4])
    second.right[1, 2] = math.inf
    with pytest.raises(NumericsError, match="expert 1's task delta"):
        merged(both([first, second])[0], name, {}, None, [])


@pytest.mark.parametrize("name", FACTORED)
def test_adapters_whose_products_vanish(name: str) -> None:
    left, right = torch.zeros(40, 2), torch.zeros(2, 30)
    left[0, 0], right[1, 0] = 1, 1
    result = merged(both([LowRank(left, right)] * 2)[0], name, {}, None, [])
    assert not result.any()


@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("name", FACTORED)
def test_the_peak_of_the_factored_form(name: str, precision: str) -> None:
    rows, columns, ranks = 700, 900, [16, 24, 8]
    deltas = both(changes(rows, columns, ranks), precision)[0]
    calibration = {"method": "svc", "alpha": 0.5, "side": "left"}
    with CountedMemory() as memory:
        merge_matrix(deltas, METHODS[name], complete(name, 3), calibration, [])
    booked = (factored_memory(rows, columns, sum(ranks), precision) - HEAP_SLACK) / 2**20
    assert 0.3 * booked < memory.mib <= 1.1 * booked
