"""What holds for every element-wise method: pieces, zero deltas, bits, and their declarations.

Tests svc_dist.methods.elementwise.linear and svc_dist.methods.elementwise.declarations.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from svc_dist.errors import RecipeError
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.deltas import Copy, TaskDeltas
from svc_dist.methods.registry import METHODS
from tests.support.elementwise_references import merged, parameters, pieces, whole

ELEMENTWISE = sorted(name for name, method in METHODS.items() if method.family == "elementwise")
OPTIONS = {
    "linear": {"base_weight": 0.0},
    "ties": {"density": 0.3},
    "breadcrumbs": {"density": 0.6},
    "breadcrumbs_ties": {"density": 0.6},
    "dare_linear": {"density": 0.3},
    "dare_ties": {"density": 0.3},
    "della": {"density": 0.3, "epsilon": 0.1},
    "della_linear": {"density": 0.3, "epsilon": 0.1},
    "sce": {"select_topk": 0.3},
    "nuslerp": {"base_weight": None},
    "multislerp": {"base_weight": None},
    "karcher": {"base_weight": 1.0},
}
WHOLE = {"slerp", "nuslerp", "multislerp", "karcher", "arcee_fusion", "passthrough"}  # they look at more than a piece


def count_of(name: str) -> int:
    return METHODS[name].experts[1] or 3


def models(name: str, shape: tuple[int, ...] = (1200, 512)) -> TaskDeltas:
    """A base and experts in bfloat16; the first rows do not differ. 1200 x 512 are three chunks."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator).bfloat16()
    experts = [base + torch.randn(shape, generator=generator) for _ in range(count_of(name))]
    for expert in experts:
        expert.view(-1)[:CHUNK] = base.view(-1)[:CHUNK]
    return TaskDeltas([expert.bfloat16() for expert in experts], base, tensor="w")


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_pieces_put_together_are_the_whole(name: str) -> None:
    deltas = models(name)
    assert torch.equal(whole(name, deltas, **OPTIONS.get(name, {})), merged(name, deltas, **OPTIONS.get(name, {})))


@pytest.mark.parametrize("name", sorted(set(ELEMENTWISE) - WHOLE))
def test_a_piece_without_differences_is_the_base_bit_for_bit(name: str) -> None:
    found = pieces(name, models(name), **OPTIONS.get(name, {}))
    parts = {start: part for start, _, part, _ in found}
    assert parts[0] is None
    assert parts[CHUNK] is not None


@pytest.mark.parametrize("name", sorted(set(ELEMENTWISE) - {"passthrough"}))
def test_a_tensor_without_differences_is_the_base_bit_for_bit(name: str) -> None:
    base = torch.randn(600, 512)
    deltas = TaskDeltas([base.clone() for _ in range(count_of(name))], base)
    assert all(part is None for _, _, part, _ in pieces(name, deltas, **OPTIONS.get(name, {})))


def test_a_linear_sum_takes_its_share_of_unchanged_pieces_too() -> None:
    deltas = models("linear")
    result = whole("linear", deltas, weight=0.5, normalize=False, base_weight=0.0)  # weights add up to 1.5
    assert torch.allclose(result.view(-1)[:100], 0.5 * deltas.base_view.float().view(-1)[:100])


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0, 4), (3, 4, 5), (200_000,)])
def test_any_shape_and_one_expert(name: str, shape: tuple[int, ...]) -> None:
    base = torch.randn(shape)
    deltas = TaskDeltas([base + 1, base - 3][: 2 if name == "nuslerp" else 1], base, tensor="w")
    result = merged(name, deltas, **OPTIONS.get(name, {}))
    assert result.shape == shape
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_views_of_files_are_only_read(name: str) -> None:
    deltas = models(name, (30, 40))
    before: list[Tensor] = [deltas.base_view.clone(), *(expert.clone() for expert in deltas.experts)]
    whole(name, deltas, **OPTIONS.get(name, {}))
    assert all(torch.equal(a, b) for a, b in zip(before, [deltas.base_view, *deltas.experts], strict=True))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_experts_of_mixed_dtypes(name: str) -> None:
    deltas = models(name, (30, 40))
    mixed = TaskDeltas([deltas.experts[0].float(), *deltas.experts[1:]], deltas.base_view, tensor="w")
    options = OPTIONS.get(name, {})
    assert torch.equal(merged(name, mixed, **options), merged(name, deltas, **options))


@pytest.mark.parametrize("name", sorted(set(ELEMENTWISE) - WHOLE))
def test_a_nan_of_any_expert_shows(name: str) -> None:
    deltas = models(name)
    for index in range(len(deltas)):
        experts = [expert.clone() for expert in deltas.experts]
        experts[index].view(-1)[-3] = math.nan
        result = whole(name, TaskDeltas(experts, deltas.base_view, tensor="w"), **OPTIONS.get(name, {}))
        assert bool(result.view(-1)[-3].isnan())


def test_passthrough_is_the_experts_own_entries() -> None:
    base = torch.randn(600, 512)
    found = pieces("passthrough", TaskDeltas([base + 1], base))
    assert all(part == Copy(0) for _, _, part, _ in found)
    assert [start for start, _, _, _ in found] == sorted(start for start, _, _, _ in found)
    assert found[-1][1] == base.numel()


def test_passthrough_of_signed_zeros_is_not_the_base() -> None:
    base = torch.zeros(10)
    assert [part for _, _, part, _ in pieces("passthrough", TaskDeltas([-base], base))] == [Copy(0)]


def test_passthrough_takes_exactly_one_expert() -> None:
    with pytest.raises(RecipeError, match="exactly one expert"):
        METHODS["passthrough"].require_possible({}, 3)
    METHODS["passthrough"].require_possible({}, 1)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_registry_names_functions_that_take_its_parameters(name: str) -> None:
    method = METHODS[name]
    taken = set(method.load().__kwdefaults__ or {}) | set(method.load().__annotations__)
    taken |= set(((statistics := method.load_statistics()) and statistics.__annotations__) or {})
    for parameter in method.parameters:
        assert parameter.name in taken
        assert parameter.doc
        assert parameter.default is None or parameter.check(parameter.default, name) == parameter.default
    assert (method.statistics is not None) == (method.access == "two passes")
    assert method.work(100, 200, 3, "mixed").flops > 0
    assert method.memory(100, 200, 3, "mixed") >= 0
    assert parameters(name, 2).keys() == {parameter.name for parameter in method.parameters}


def test_passthrough_scales_the_tensor() -> None:
    base, expert = torch.randn(2, 40, 30)
    result = base + merged("passthrough", TaskDeltas([expert], base), scale=[0.5])
    assert torch.allclose(result, expert / 2, atol=1e-6)
