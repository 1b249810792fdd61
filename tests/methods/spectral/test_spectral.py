"""The spectral methods against plain float64 references, and what must hold of them whatever the inputs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg.eigen import symmetric_eigen
from svc_dist.linalg.precision import Precision
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.spectral.normal_equations import normal_equations
from tests.support import spectral_references as plain
from tests.support.elementwise_references import chunks_of
from tests.support.spectral_cases import (
    SPECTRAL,
    adapters,
    calibrated,
    error,
    experts,
    fine_tunes,
    run,
    stack,
    taken,
)

SHAPES = [(256, 256), (512, 192), (192, 512), (40, 400)]
LARGEST = (512, 1376)  # SWUDI sums it in float32 at `fast`
ROUNDING = 2e-7  # of a result in float32
CLOSED = ("tsv_m", "iso_c", "iso_cts", "star", "swudi", "optmerge", "wudi")

quick = settings(max_examples=15, deadline=None, derandomize=True)


def expected(name: str, deltas: Tensor) -> Tensor:
    return getattr(plain, name)(deltas, **({"steps": 5} if name in ("wudi", "optmerge") else {}))


def found(name: str, deltas: TaskDeltas) -> Tensor:
    return run(name, deltas, **({"steps": 5} if name in ("wudi", "optmerge") else {})).delta


@pytest.mark.parametrize("shape", [*SHAPES, LARGEST], ids=str)
@pytest.mark.parametrize("name", CLOSED)
def test_agrees_with_full_svds_in_float64(name: str, shape: tuple[int, int]) -> None:
    models = fine_tunes(*shape, 4)
    truth = expected(name, stack(taken(models, "float64")))
    single = error(expected(name, torch.stack(list(taken(models, "mixed")))), truth)
    errors = {precision: error(found(name, taken(models, precision)), truth) for precision in Precision}
    assert errors["float64"] <= 1e-8
    assert errors["mixed"] <= 1e-5
    assert errors["fast"] <= min(1e-3, max(single, ROUNDING)), "float32 throughout, as in papers' code, is no better"
    if name not in ("star", "wudi", "optmerge"):  # no small direction counts much in those
        assert errors["mixed"] < single / 2


@pytest.mark.parametrize("precision", ["float64", "mixed", "fast"])
@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("ranks", [(3, 5, 4), (4, 4, 0)], ids=str)
def test_low_rank_deltas_do_not_blow_up(name: str, ranks: tuple[int, ...], precision: str) -> None:
    experts = adapters(96, 128, ranks)
    largest = max(float(torch.linalg.norm(expert.double())) for expert in experts)
    for side in ("left", "right"):
        deltas = TaskDeltas(experts, precision=precision)
        merged = run(name, deltas)
        assert torch.linalg.norm(merged.delta) <= 2 * len(experts) * largest
        if "steps" not in merged.summary:  # Adam moves every entry
            span = torch.linalg.matrix_rank(merged.delta.double(), rtol=1e-4)
            assert span <= sum(ranks), "directions that no expert has"
        assert torch.linalg.norm(calibrated(merged, deltas, side=side)) <= 2 * len(experts) ** 2 * largest


@pytest.mark.parametrize("name", SPECTRAL)
def test_an_expert_equal_to_the_base_adds_nothing_to_the_normal_equations(name: str) -> None:
    models = fine_tunes(48, 64, 2)
    with_zero = normal_equations(TaskDeltas([*models[1:], models[0]], models[0], precision="float64"))
    without = normal_equations(taken(models, "float64"))
    assert torch.equal(with_zero.normal, without.normal)
    assert torch.equal(with_zero.target, without.target)
    assert torch.isfinite(run(name, TaskDeltas([*models[1:], models[0]], models[0])).delta).all()


@pytest.mark.parametrize("name", SPECTRAL)
def test_one_expert_alone_is_merged_to_itself_or_its_flat_self(name: str) -> None:
    models = fine_tunes(48, 64, 1)
    delta = stack(taken(models, "float64"))[0]
    result = run(name, taken(models, "float64")).delta
    if name.startswith("iso"):
        assert error(result, plain.iso_c(delta[None])) <= 1e-9
    elif name == "star":
        assert error(result, plain.star(delta[None])) <= 1e-9
    else:
        assert error(result, delta) <= 1e-9


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_entry_that_is_not_finite_stops_the_merge(name: str, value: float) -> None:
    models = fine_tunes(48, 64, 3)
    models[2] = models[2].clone()
    models[2][5, 7] = value
    with pytest.raises(NumericsError, match=r"expert 1|the sum of the task deltas"):
        run(name, taken(models, "mixed"))


@pytest.mark.parametrize("name", ["tsv_m", "star", "optmerge", "swudi", "swudi_a", "wudi"])
def test_identical_experts_are_merged_to_finite_multiples_of_one(name: str) -> None:
    models = fine_tunes(64, 48, 1)
    deltas = TaskDeltas([models[1]] * 3, models[0])
    delta = stack(deltas)[0]
    result = run(name, deltas).delta.double()
    projected = (result * delta).sum() / delta.square().sum()
    assert 0 < projected <= 3.01
    assert torch.linalg.matrix_norm(result, 2) <= 3.01 * torch.linalg.matrix_norm(delta, 2)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", SPECTRAL)
def test_experts_that_cancel_are_merged_to_something_finite(name: str, side: str) -> None:
    delta = stack(taken(fine_tunes(24, 32, 1), "float64"))[0]
    for precision in ("float64", "mixed"):
        deltas = TaskDeltas([delta, -delta], precision=precision)
        merged = run(name, deltas)
        assert torch.linalg.norm(merged.delta) <= 2 * torch.linalg.norm(delta)
        assert torch.isfinite(calibrated(merged, deltas, side=side)).all()
        if name == "iso_c":
            assert not merged.delta.any()


def test_zero_experts_pass_the_base_through() -> None:
    model = torch.randn(16, 16, dtype=torch.bfloat16)
    deltas = TaskDeltas([model, model.clone()], model)
    for name in SPECTRAL:
        assert [piece.merged for piece in chunks_of(deltas, name, {}, batch=(1, 16, 16))] == [None]


def test_a_batch_of_matrices_is_merged_one_by_one_with_a_summary_of_each() -> None:
    pairs = [fine_tunes(24, 32, 3, seed) for seed in range(2)]
    batch = [torch.stack(models) for models in zip(*pairs, strict=True)]
    summaries: list[dict] = []
    parameters = {"exp_time": 300.0, "rank_ratio": 0.65, "init": "sum"}
    calibration = {"method": "svc", "alpha": 1 / 3, "side": "right"}
    pieces = chunks_of(taken(batch, "mixed"), "swudi", parameters, calibration, (2, 24, 32), summaries)
    for (start, end, piece, _), models in zip(pieces, pairs, strict=True):
        own = taken(models, "mixed")
        assert end - start == 24 * 32
        assert torch.equal(piece.view(24, 32), calibrated(run("swudi", own), own, side="right"))
    assert len(summaries) == 2
    assert {"kept_rank", "singular_values", "residual", "sigma", "gamma", "inflation"} <= summaries[0].keys()
    assert summaries[0]["kept_rank"] == math.ceil(0.65 * 32)
    assert 0 <= summaries[0]["residual"] < 1e-5


def test_a_result_does_not_depend_on_the_global_random_state() -> None:
    models = fine_tunes(64, 64, 12)
    torch.manual_seed(1)
    first = run("tsv_m", taken(models, "mixed")).delta
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(run("tsv_m", taken(models, "mixed")).delta, first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


# --- What holds of every input -------------------------------------------------------------------------------------


@quick
@given(experts(), st.randoms(use_true_random=False))
def test_the_order_of_experts_does_not_matter(deltas: list[Tensor], random) -> None:
    shuffled = random.sample(deltas, len(deltas))
    for name in SPECTRAL:
        if name in ("tsv_m", "iso_cts"):
            continue  # where singular values of B are zero, polar(B) is not unique: see the next test
        first = run(name, TaskDeltas(deltas, precision="float64")).delta
        assert error(run(name, TaskDeltas(shuffled, precision="float64")).delta, first) <= 1e-6, name


@pytest.mark.parametrize("name", ["tsv_m", "iso_cts"])
def test_the_order_of_experts_does_not_matter_to_polar_factors(name: str) -> None:
    models = fine_tunes(60, 64, 4)
    first = run(name, taken(models, "float64")).delta
    shuffled = [models[0], models[3], models[1], models[4], models[2]]
    assert error(run(name, taken(shuffled, "float64")).delta, first) <= 1e-8


@quick
@given(experts(), st.floats(0.01, 100))
def test_methods_scale_with_their_deltas(deltas: list[Tensor], scale: float) -> None:
    scaled = [scale * delta for delta in deltas]
    for name in ("star", "iso_c", "swudi", "swudi_a"):
        first = run(name, TaskDeltas(deltas, precision="float64")).delta
        assert error(run(name, TaskDeltas(scaled, precision="float64")).delta, scale * first) <= 1e-6, name


@quick
@given(experts())
def test_methods_without_a_side_commute_with_transposition(deltas: list[Tensor]) -> None:
    flipped = [delta.T.contiguous() for delta in deltas]
    for name in ("star", "iso_c"):
        first = run(name, TaskDeltas(deltas, precision="float64")).delta
        assert error(run(name, TaskDeltas(flipped, precision="float64")).delta.T, first) <= 1e-6, name


@quick
@given(experts(), st.integers(0, 2))
def test_the_spectrum_of_the_normal_matrix_sums_to_the_experts_that_count(deltas: list[Tensor], zeros: int) -> None:
    padded = [*deltas, *[torch.zeros_like(deltas[0])] * zeros]
    equations = normal_equations(TaskDeltas(padded, precision="float64"))
    values = symmetric_eigen(equations.normal, "C").values
    assert equations.count == len(deltas)
    assert float(values.sum()) == pytest.approx(len(deltas), rel=1e-10)
    assert float(values[-1]) >= -1e-12
    assert float(values[0]) <= len(deltas) * (1 + 1e-12)
