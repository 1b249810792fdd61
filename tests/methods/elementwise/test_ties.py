"""TIES and Model Breadcrumbs against full sorts, and what must hold for any input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged
from tests.support import elementwise_references as plain
from tests.support.elementwise_references import merged, whole
from tests.support.spectral_cases import svc


def experts(count: int, shape: tuple[int, ...] = (37, 53), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def close(result: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    return bool(torch.linalg.norm(result.double() - expected) <= tolerance * torch.linalg.norm(expected))


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("equal", [True, False])
def test_ties_is_trim_elect_merge(count: int, normalize: bool, equal: bool) -> None:
    tensors = experts(count)
    weight = [0.4] * count if equal else [0.1 + 0.3 * index for index in range(count)]
    density = [0.2 + 0.1 * index for index in range(count)]
    deltas = TaskDeltas(tensors, precision="float64")
    result = merged("ties", deltas, weight=weight, density=density, normalize=normalize)
    assert close(result, plain.ties(tensors, weight, density, normalize))


@pytest.mark.parametrize("count", [2, 3])
def test_negative_and_zero_weights(count: int) -> None:
    tensors = experts(count)
    weight = [1.0, -0.5, 0.0][:count]
    result = merged("ties", TaskDeltas(tensors, precision="float64"), weight=weight, density=0.5)
    assert close(result, plain.ties(tensors, weight, [0.5] * count))


def test_a_weight_that_dwarfs_the_others_does_not_blur_them() -> None:
    tensors = [torch.tensor([3.0, -1.0]), torch.tensor([-1e-9, 2.0])]
    result = merged("ties", TaskDeltas(tensors), weight=[1e-6, 1.0])
    assert result.tolist() == [pytest.approx(3.0), pytest.approx(2.0)]


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties"])
def test_what_is_kept_can_be_scaled_to_the_norm_of_the_whole(name: str) -> None:
    tensors = experts(1, (700, 900))  # several chunks
    deltas = TaskDeltas(tensors, precision="float64")
    keys = {"weight": [1.0], "density": [0.3], "normalize": False}
    plainly, scaled = merged(name, deltas, **keys), merged(name, deltas, **keys, rescale=True)
    assert float(scaled.abs().sum()) == pytest.approx(float(tensors[0].abs().sum()))
    assert close(scaled, plainly * (tensors[0].abs().sum() / plainly.abs().sum()))
    assert torch.equal(merged(name, deltas, **keys | {"density": [0.0]}, rescale=True), torch.zeros_like(tensors[0]))


def test_a_zero_sum_elects_plus() -> None:
    result = merged("ties", TaskDeltas([torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0])]))
    assert result.tolist() == [1.0, 2.0]


def test_the_number_kept_is_exact_although_many_are_equal() -> None:
    base = torch.full((64, 256), 1.0).bfloat16()
    expert = base + torch.tensor([0.0, 0.0078125, -0.0078125, 0.0078125]).repeat(64, 64).bfloat16()
    for density in (0.0, 0.1, 0.37, 0.75):
        result = merged("ties", TaskDeltas([expert], base), density=density)
        assert int(result.count_nonzero()) == int(density * base.numel())


def test_fewer_entries_than_one_over_density_keep_none() -> None:
    assert not merged("ties", TaskDeltas([torch.ones(4)]), density=0.2).any()


@given(st.permutations(range(4)), st.booleans())
@settings(max_examples=20)
def test_the_order_of_experts_does_not_matter(order: list[int], equal: bool) -> None:
    tensors, weight = experts(4, (11, 13)), [0.5] * 4 if equal else [0.1, 0.7, 0.3, 0.2]
    for name, parameters in (("ties", {}), ("breadcrumbs_ties", {"gamma": 0.05})):
        one = merged(name, TaskDeltas(tensors, precision="float64"), weight=weight, density=0.4, **parameters)
        shuffled = TaskDeltas([tensors[index] for index in order], precision="float64")
        other = merged(name, shuffled, weight=[weight[index] for index in order], density=0.4, **parameters)
        assert torch.allclose(one, other, rtol=1e-13, atol=1e-15)


def test_full_density_without_election_is_task_arithmetic() -> None:
    deltas = TaskDeltas(experts(3), precision="float64")
    assert torch.equal(merged("breadcrumbs", deltas, weight=0.3), merged("task_arithmetic", deltas, weight=0.3))


def test_full_density_is_election_alone() -> None:
    tensors = experts(3)
    expected = plain.consensus(tensors, [1.0] * 3, True)
    assert close(merged("ties", TaskDeltas(tensors, precision="float64")), expected)


@pytest.mark.parametrize(
    ("density", "gamma"), [(0.6, 0.05), (0.9, 0.3), (0.0, 0.1), (1.0, 0.1), (0.3, 0.0), (0.5, 1.0)]
)
def test_breadcrumbs_drops_outliers_and_crumbs(density: float, gamma: float) -> None:
    tensors = experts(3)
    parts = [plain.breadcrumbs_part(delta, density, gamma) for delta in tensors]
    deltas = TaskDeltas(tensors, precision="float64")
    result = merged("breadcrumbs", deltas, weight=[0.2, 0.3, 0.4], density=density, gamma=gamma)
    assert torch.allclose(result, 0.2 * parts[0] + 0.3 * parts[1] + 0.4 * parts[2], rtol=1e-12, atol=1e-15)
    result = merged("breadcrumbs_ties", deltas, weight=[0.2, 0.3, 0.4], density=density, gamma=gamma)
    assert torch.allclose(result, plain.consensus(parts, [0.2, 0.3, 0.4], False), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["ties", "breadcrumbs_ties"])
def test_a_tensor_of_many_chunks_is_trimmed_as_one(name: str) -> None:
    """One third of the tensor has larger entries, another none at all: a threshold per chunk would show."""
    tensors = experts(2, (900, 512))
    for tensor in tensors:
        tensor[:300] *= 10
        tensor[600:] = 0
    deltas = TaskDeltas(tensors, precision="float64")
    if name == "ties":
        expected = plain.ties(tensors, [1.0, 1.0], [0.2, 0.2])
    else:
        expected = plain.consensus([plain.breadcrumbs_part(delta, 0.2, 0.01) for delta in tensors], [1.0, 1.0], False)
    assert close(merged(name, deltas, density=0.2), expected)
    assert close(whole(name, deltas, density=0.2), expected)


def test_matrices_of_a_batch_share_the_tensors_threshold() -> None:
    tensors = experts(2, (3, 20, 30))
    for tensor in tensors:
        tensor[1] *= 5
    deltas = TaskDeltas(tensors, precision="float64")
    calibration = {"method": "svc", "alpha": 1e-9, "side": "left"}
    parameters = plain.parameters("ties", 2, density=0.3)
    parts = [piece.merged for piece in plain.chunks_of(deltas, "ties", parameters, calibration, (3, 20, 30))]
    expected = plain.ties(tensors, [1.0, 1.0], [0.3, 0.3])
    for part, matrix in zip(parts, expected, strict=True):
        own = TaskDeltas([tensor[0] for tensor in tensors], precision="float64")
        assert part.shape == (600,)
        assert own.numel == matrix.numel()
    first = svc(Merged(expected[0]), TaskDeltas([t[0] for t in tensors], precision="float64"), alpha=1e-9)
    assert close(parts[0].view(20, 30), first.delta, 1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_what_is_not_finite_shows_in_the_result(bad: float, name: str, density: float, normalize: bool) -> None:
    tensors = experts(3)
    tensors[1][5, 7] = bad
    for weight in (1.0, [0.2, 0.3, 0.4]):
        deltas = TaskDeltas(tensors)
        assert not torch.isfinite(merged(name, deltas, weight=weight, density=density, normalize=normalize)[5, 7])


def test_inputs_are_left_alone() -> None:
    tensors = [tensor.float() for tensor in experts(3)]
    base = torch.randn(37, 53)
    before = [tensor.clone() for tensor in (*tensors, base)]
    merged("ties", TaskDeltas(tensors, base), density=0.3, weight=[0.2, 0.3, 0.4])
    merged("breadcrumbs", TaskDeltas(tensors), density=0.3)
    merged("ties", TaskDeltas(tensors))
    assert all(torch.equal(one, other) for one, other in zip((*tensors, base), before, strict=True))


def test_weights_that_cancel_are_not_divided_by() -> None:
    tensors = experts(2)
    result = merged("breadcrumbs", TaskDeltas(tensors, precision="float64"), weight=[1.0, -1.0], normalize=True)
    assert close(result, tensors[0] - tensors[1])
