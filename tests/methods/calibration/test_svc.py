"""SVC against full decompositions in float64, and what must hold of it whatever the inputs."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svc_dist.linalg.precision import Precision
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged
from svc_dist.methods.registry import METHODS
from tests.support import spectral_references as plain
from tests.support.elementwise_references import parameters
from tests.support.spectral_cases import (
    adapters,
    calibrated,
    error,
    exactly,
    experts,
    fine_tunes,
    merge_matrix,
    run,
    stack,
    svc,
    taken,
)

SHAPES = [(256, 256), (512, 192), (192, 512), (40, 400)]
LARGEST = (512, 1376)  # SWUDI sums it in float32 at `fast`
ROUNDING = 2e-7  # of a result in float32

quick = settings(max_examples=15, deadline=None, derandomize=True)


@functools.lru_cache(maxsize=2)  # of one method and shape: both sides are calibrated on the same merge
def plainly_merged(name: str, shape: tuple[int, int], precision: str) -> tuple[Tensor, Tensor]:
    """The deltas ``(K, m, n)``, and their merge."""
    given = taken(fine_tunes(*shape, 4), precision)
    deltas = stack(given) if precision == "float64" else torch.stack(list(given))
    return deltas, deltas.sum(0) if name == "task_arithmetic" else getattr(plain, name)(deltas)


def plain_svc(name: str, shape: tuple[int, int], precision: str, side: str) -> Tensor:
    """SVC on a method by full decompositions, in the dtype of the deltas."""
    deltas, merged = plainly_merged(name, shape, precision)
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
    truth = plain_svc(method, shape, "float64", side)
    single = error(plain_svc(method, shape, "mixed", side), truth)
    given = parameters(method, 4), {"method": "svc", "alpha": None, "side": side}
    errors = {}
    for precision in Precision:
        result = merge_matrix(taken(models, precision), METHODS[method], *given)
        errors[precision] = error(result, truth)
    assert errors["float64"] <= 1e-7
    # gamma of a weak direction is a quotient of two small numbers: what rounding a merge came with, SVC multiplies.
    assert errors["mixed"] <= 1e-5
    assert errors["fast"] <= min(1e-3, max(single, 20 * ROUNDING))


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


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("precision", ["float64", "mixed"])
def test_directions_at_rounding_level_are_left_alone_whatever_the_floor(
    shape: tuple[int, int], side: str, precision: str
) -> None:
    deltas = TaskDeltas(adapters(*shape, (2, 3, 2)), precision=precision)
    summed = Merged(torch.stack(list(deltas)).sum(0))
    results = [svc(summed, deltas, alpha=alpha, side=side) for alpha in (1e-3, 1e-30)]
    assert results[0].summary["calibrated_rank"] == 7
    for result in results:
        assert bool((result.gamma[7:] == 1).all())
        assert torch.linalg.norm(result.delta) <= 10 * torch.linalg.norm(summed.delta)
