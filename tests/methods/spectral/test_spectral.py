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
from svc_dist.methods.calibration import policy
from svc_dist.methods.calibration import svc as calibration
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged
from svc_dist.methods.registry import METHODS
from svc_dist.methods.spectral.normal_equations import normal_equations
from svc_dist.methods.spectral.rank_rules import rank
from tests.support import spectral_references as plain
from tests.support.elementwise_references import chunks_of, parameters
from tests.support.spectral_cases import (
    SPECTRAL,
    adapters,
    calibrated,
    error,
    fine_tunes,
    merge_matrix,
    run,
    stack,
    svc,
    taken,
)

SHAPES = [(256, 256), (512, 192), (192, 512), (40, 400)]
LARGEST = (512, 1376)  # SWUDI sums it in float32
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


def plain_svc(name: str, deltas: Tensor, side: str) -> Tensor:
    """SVC on a method by full decompositions, in the dtype of ``deltas (K, m, n)``."""
    merged = deltas.sum(0) if name == "task_arithmetic" else expected(name, deltas)
    if side == "right":
        basis = plain.iso_c_basis(deltas.mT) if name == "iso_c" else None
        return plain.svc(merged.T, deltas.mT, basis=basis).T
    return plain.svc(merged, deltas, basis=plain.iso_c_basis(deltas) if name == "iso_c" else None)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("method", "shape"), [
    *((method, shape) for method in ("task_arithmetic", "iso_c", "tsv_m", "star", "swudi") for shape in SHAPES),
    ("task_arithmetic", LARGEST), ("swudi", LARGEST),
])  # fmt: skip
def test_calibration_agrees_with_full_svds_in_float64(method: str, shape: tuple[int, int], side: str) -> None:
    models = fine_tunes(*shape, 4)
    truth = plain_svc(method, stack(taken(models, "float64")), side)
    single = error(plain_svc(method, torch.stack(list(taken(models, "mixed"))), side), truth)
    given = parameters(method, 4), {"method": "svc", "alpha": None, "side": side}
    errors = {}
    for precision in Precision:
        result = merge_matrix(taken(models, precision), METHODS[method], *given)
        errors[precision] = error(result, truth)
    assert errors["float64"] <= 1e-7
    # gamma of a weak direction is a quotient of two small numbers: what rounding a merge came with, SVC multiplies.
    # SWUDI's is 5e-6 where it sums in float32, elsewhere it is that of the merge's entries.
    assert errors["mixed"] <= (2e-5 if (method, shape) == ("swudi", LARGEST) else 1e-5)
    assert errors["fast"] <= min(1e-3, max(single, 20 * ROUNDING))


def test_projections_in_bfloat16_leave_the_strong_directions_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    models = fine_tunes(256, 320, 4)
    truth = plain_svc("task_arithmetic", stack(taken(models, "float64")), "left")
    merged = stack(taken(models, "float64")).sum(0).float()
    monkeypatch.setattr(calibration, "coefficient_dtype", lambda precision, device: torch.bfloat16)
    monkeypatch.setattr(policy, "ROUNDED_FROM", 0)
    errors = {}
    for exact in (0, calibration._EXACT):
        monkeypatch.setattr(calibration, "_EXACT", exact)
        errors[exact] = error(svc(Merged(merged), taken(models, "fast")).delta, truth)
    assert errors[64] <= 3e-4
    assert errors[64] <= errors[0] / 2


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "side"), [((2048, 2048), "left"), ((2048, 2304), "right")])
def test_fast_is_as_accurate_as_float32_where_it_projects_in_bfloat16(shape: tuple[int, int], side: str) -> None:
    models = fine_tunes(*shape, 4)
    truth = plain_svc("task_arithmetic", stack(taken(models, "float64")), side)
    single = error(plain_svc("task_arithmetic", torch.stack(list(taken(models, "mixed"))), side), truth)
    given = parameters("task_arithmetic", 4), {"method": "svc", "alpha": None, "side": side}
    result = merge_matrix(taken(models, "fast"), METHODS["task_arithmetic"], *given)
    assert error(result, truth) <= min(1e-3, single)


def test_a_direction_between_the_cuts_is_lifted_in_float64_only() -> None:
    # The weakest of these 256 directions, 4e-7 of the strongest, is above float64's rounding level but not above that
    # of float32 entries: in mixed it stays out, and the receipt says so. All others agree.
    models = fine_tunes(256, 256, 4, seed=1)
    exact, mixed = (run("iso_c", taken(models, precision)) for precision in ("float64", "mixed"))
    assert (exact.summary["cut"], mixed.summary["cut"]) == (0, 1)
    weakest = torch.linalg.svd(stack(taken(models, "float64")).sum(0))
    without = exact.delta - exact.delta @ torch.outer(weakest[2][-1], weakest[2][-1])
    flat = mixed.summary["sigma"][0] / exact.summary["sigma"][0]
    assert error(mixed.delta, without * flat) <= 1e-5
    assert flat == pytest.approx(1, abs=1e-6)


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


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["iso_c", "iso_cts"])
def test_flat_spectra_are_calibrated_in_the_basis_that_the_method_built(name: str, side: str) -> None:
    deltas = taken(fine_tunes(48, 32, 3), "float64")
    merged = run(name, deltas)
    total = stack(deltas).sum(0)
    basis = merged.basis(side)
    assert basis is not None
    assert error(basis.T @ basis, torch.eye(32, dtype=torch.float64)) <= 1e-9
    if name == "iso_c":  # that of the sum, up to signs
        left, _, right = plain.svd(total)
        expected_basis = left if side == "left" else right.T
        assert error((basis * expected_basis).sum(0).abs(), torch.ones(32, dtype=torch.float64)) <= 1e-9
    delta, experts, own = merged.delta, list(stack(deltas)), basis
    if side == "right":
        delta, experts = delta.T, [expert.T for expert in experts]
    truth = plain.svc(delta, torch.stack(experts), basis=own)
    assert error(calibrated(merged, deltas, side=side), truth.T if side == "right" else truth) <= 1e-9


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


@st.composite
def experts(draw: st.DrawFn, least: int = 2) -> list[Tensor]:
    rows, columns = draw(st.integers(3, 24)), draw(st.integers(3, 24))
    models = fine_tunes(rows, columns, draw(st.integers(least, 5)), draw(st.integers(0, 1000)))
    return [model.double() for model in stack(taken(models, "float64"))]


def exactly(deltas: list[Tensor]) -> TaskDeltas:
    return TaskDeltas(deltas, precision="float64")


@quick
@given(experts(), st.floats(0.01, 100))
def test_without_its_floor_svc_ignores_the_scale_of_the_merge(deltas: list[Tensor], scale: float) -> None:
    total = sum(deltas)
    plain_result = svc(Merged(total), exactly(deltas), alpha=1e-9)
    if bool((plain_result.ratios <= 1e-6).any()):
        return  # an expert opposes the merge: the floor binds
    scaled = svc(Merged(scale * total), exactly(deltas), alpha=1e-9)
    assert error(scaled.delta, plain_result.delta) <= 1e-7


@quick
@given(experts(least=1), st.sampled_from(["left", "right"]))
def test_svc_of_one_expert_is_the_identity(deltas: list[Tensor], side: str) -> None:
    assert error(svc(Merged(deltas[0]), exactly(deltas[:1]), side=side).delta, deltas[0]) <= 1e-10


@quick
@given(experts(), st.floats(0.05, 1))
def test_gamma_lies_between_zero_and_one_over_alpha(deltas: list[Tensor], alpha: float) -> None:
    gamma = svc(Merged(sum(deltas)), exactly(deltas), alpha=alpha).gamma
    assert (gamma > 0).all()
    assert (gamma <= 1 / alpha * (1 + 1e-12)).all()


@quick
@given(experts())
def test_svc_on_the_right_is_svc_on_the_left_of_the_transposes(deltas: list[Tensor]) -> None:
    right = svc(Merged(sum(deltas)), exactly(deltas), side="right").delta
    left = svc(Merged(sum(deltas).T.contiguous()), exactly([delta.T for delta in deltas])).delta.T
    assert error(right, left) <= 1e-9


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


# --- SWUDI's ways to the same result -------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["sum", "mean", "zero"])
@pytest.mark.parametrize("shape", [(300, 400), (500, 320)], ids=str)
def test_few_directions_from_a_krylov_space_are_those_of_the_full_decomposition(
    shape: tuple[int, int], init: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svc_dist.methods.spectral import swudi

    models = fine_tunes(*shape, 3)
    truth = plain.swudi(stack(taken(models, "float64")), rank_ratio=0.03, init=init)
    monkeypatch.setattr(swudi, "krylov_pays", lambda size, count: True)
    monkeypatch.setattr(swudi, "swudi_precision", lambda rows, columns, precision: precision)  # as for larger ones
    assert error(run("swudi", taken(models, "float64"), rank_ratio=0.03, init=init).delta, truth) <= 1e-8
    assert error(run("swudi", taken(models, "mixed"), rank_ratio=0.03, init=init).delta, truth) <= 1e-5


@pytest.mark.parametrize("init", ["sum", "mean", "zero"])
@pytest.mark.parametrize("ratio", [0.02, 0.2, 1.0])
def test_the_small_gram_matrix_gives_the_same_result(init: str, ratio: float) -> None:
    models = fine_tunes(20, 300, 4)  # 80 rows in all
    truth = plain.swudi(stack(taken(models, "float64")), rank_ratio=ratio, init=init)
    assert error(run("swudi", taken(models, "float64"), rank_ratio=ratio, init=init).delta, truth) <= 1e-8
    assert error(run("swudi", taken(models, "mixed"), rank_ratio=ratio, init=init).delta, truth) <= 1e-5


@pytest.mark.parametrize("shape", [(20, 300), (128, 128), (192, 96), LARGEST], ids=str)
@pytest.mark.parametrize("rule", ["participation_sqrt", "participation", "entropy", "stable_rank", "cumvar_0.9"])
def test_swudi_a_minimises_on_the_directions_that_its_rule_keeps(rule: str, shape: tuple[int, int]) -> None:
    models = fine_tunes(*shape, 4)
    deltas = stack(taken(models, "float64"))
    values = torch.linalg.eigvalsh(plain.normalised(deltas)[0]).flip(0).clamp_min(1e-8)
    top = rank(rule, values, (4 * shape[0], shape[1]))
    for precision, tolerance in (("float64", 1e-8), ("mixed", 1e-5)):
        result = run("swudi_a", taken(models, precision), rank_rule=rule)
        assert result.summary["kept_rank"] == top
        assert error(result.delta, plain.swudi_a(deltas, top)) <= tolerance


def test_swudi_a_never_keeps_a_direction_at_rounding_level() -> None:
    for precision in ("float64", "mixed"):
        deltas = TaskDeltas(adapters(128, 96, (4, 4, 4)), precision=precision)
        result = run("swudi_a", deltas, rank_rule="cumvar_1.0")
        assert result.summary["kept_rank"] == 12
        assert result.summary["cut"] > 0
        assert torch.linalg.norm(result.delta) <= 4 * torch.linalg.norm(sum(deltas))
