"""Compiled loops make the bytes that torch makes.

svc_dist.methods.elementwise.compiled.stored and svc_dist.methods.elementwise.compiled.rules call them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import svc_dist
from svc_dist.errors import NumericsError, UnitsFailedError
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.compiled import ready, rules
from svc_dist.methods.elementwise.compiled.stored import Left
from svc_dist.methods.elementwise.draws import bernoulli
from svc_dist.methods.elementwise.plain import pieces as plain
from svc_dist.methods.elementwise.plain.pieces import cutter, pieces, stored
from svc_dist.methods.elementwise.selection import _Search, magnitude
from svc_dist.methods.low_rank import LowRank
from tests.support.checkpoints import recipe_data, write_checkpoint
from tests.support.elementwise_references import pieces as merged_pieces

Make = Callable[[int], list[Tensor]]
SIZES = [0, 1, 7, 2049, 300_001]  # the last in two chunks, and large enough to be searched by a sample


@pytest.fixture(autouse=True)
def loaded() -> None:
    assert ready.loops(1 << 20) is not None  # once there, they serve small tensors too


def same(one: Tensor, other: Tensor) -> bool:
    """Whether the bits are the same; a NaN is any NaN."""
    assert one.dtype == other.dtype
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[one.dtype]
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(
        one.nan_to_num(0.5).view(bits), other.nan_to_num(0.5).view(bits)
    )


def normal(size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    base = torch.randn(size, generator=generator)
    changes = (torch.randn(size, generator=generator) * 0.05 for _ in range(4))
    return [base.bfloat16(), *((base + change).bfloat16() for change in changes)]


def grid(size: int) -> list[Tensor]:
    """A handful of magnitudes, zeros of both signs among them."""
    generator = torch.Generator().manual_seed(size)
    values = torch.tensor([-0.5, -0.25, -0.125, -0.0, 0.0, 0.125, 0.25])
    return [values[torch.randint(7, (size,), generator=generator)].bfloat16() for _ in range(5)]


def damaged(size: int) -> list[Tensor]:
    """NaN, infinities, subnormal numbers and zeros of both signs among the entries."""
    models = normal(size)
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e-40, -1e-40, 0.0, -0.0, 3e38, -3e38]).bfloat16()
    for number, model in enumerate(models):
        places = slice(number, None, 11 + number)
        model[places] = odd.repeat(size)[: len(model[places])]
    return models


def by_torch(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Any]) -> Any:
    """A result without compiled loops."""
    with monkeypatch.context() as hidden:
        hidden.setattr(plain, "loops", lambda size: None)
        return compute()


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("task_arithmetic", {"weight": [1.0, 1.0, 1.0, 1.0]}),
    ("task_arithmetic", {"weight": 0.3}),
    ("task_arithmetic", {"weight": [0.3, 0.2, -0.1, 0.7], "normalize": True}),
    ("task_arithmetic", {"weight": [1.0, 0.0, 1.0, -1 / 3]}),
    ("task_arithmetic", {"weight": 0.0}),
    ("linear", {"weight": [0.1, 0.5, 0.2, 0.9], "base_weight": 0.0, "normalize": False}),
    ("linear", {"weight": [0.3, 0.3, 0.3, 0.3], "base_weight": 0.2}),
    ("ties", {"weight": 0.3, "density": 0.2}),
    ("ties", {"weight": 0.3, "density": [0.2, 0.5, 1.0, 0.0], "normalize": False}),
    ("ties", {"weight": [0.1, 0.5, 0.2, 0.9], "density": 0.3, "normalize": False}),
    ("ties", {"weight": [0.1, 0.5, -0.2, 0.9], "density": 0.3}),
    ("ties", {"weight": -0.3, "density": 0.01}),
    ("ties", {"weight": 0.0, "density": 0.5}),
    ("ties", {"weight": 0.3, "density": [0.2, 0.5, 1.0, 0.1], "rescale": True}),
    ("dare_ties", {"weight": 0.3, "density": 0.2, "seed": 3}),
    ("dare_ties", {"weight": 0.3, "density": [0.5, 1.0, 0.0, 0.001], "normalize": True, "seed": 3}),
    ("dare_ties", {"weight": [0.1, 0.5, -0.2, 0.9], "density": 1 / 3, "rescale": False, "seed": 3}),
    ("dare_linear", {"weight": 0.3, "density": [0.9, 0.2, 0.0, 1.0], "seed": 3}),
    ("breadcrumbs", {"weight": 0.3, "density": 0.4, "gamma": 0.01}),
    ("breadcrumbs_ties", {"weight": 0.3, "density": 0.4, "gamma": 0.01}),
    ("della", {"weight": 0.3, "density": 0.4, "epsilon": 0.1, "seed": 3}),
    ("sce", {"select_topk": 0.2}),
]


@pytest.mark.parametrize("make", [normal, grid, damaged])
@pytest.mark.parametrize(("method", "given"), METHODS)
def test_a_method_makes_the_bytes_of_torch(
    method: str, given: dict[str, Any], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in SIZES[1:]:
        base, *experts = make(size)
        deltas = TaskDeltas(experts, base, tensor="layer", offset=13, row=1)
        chunks = merged_pieces(method, deltas, **given)
        assert all(stored(chunk.deltas) is not None for chunk in chunks)
        expected = by_torch(monkeypatch, lambda deltas=deltas: merged_pieces(method, deltas, **given))
        assert len(chunks) == len(expected)
        for one, other in zip(chunks, expected, strict=True):
            assert (one.start, one.end) == (other.start, other.end)
            if isinstance(other.merged, Tensor):
                assert same(one.merged, other.merged)  # type: ignore[arg-type]
            else:
                assert one.merged == other.merged


@pytest.mark.parametrize("probability", [0.2, 0.5, 1 / 3, 0.999999, 1e-3, 1e-9])
@pytest.mark.parametrize("offset", [0, 1, 13, 1 << 40])
def test_draws_are_those_of_bernoulli(probability: float, offset: int) -> None:
    key = bytes(range(200, 232))
    for size in SIZES:
        piece = cutter(TaskDeltas([torch.ones(size).bfloat16()], torch.zeros(size).bfloat16(), offset=offset))(0, size)
        (drawn,) = Left(stored(piece), [rules.drop(key, probability)])  # type: ignore[arg-type]
        expected = bernoulli(key, offset, offset + size, probability)
        assert torch.equal(drawn, torch.from_numpy(expected).float())


@pytest.mark.parametrize("size", [3, 16, 800])
def test_whether_deltas_are_zero_is_seen_as_by_torch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.zeros(size).bfloat16()
    cases = {True: [base.clone(), -base], False: [torch.full_like(base, 1e-40), torch.full_like(base, torch.nan)]}
    cases[False].append(torch.cat([base[1:], torch.ones(1).bfloat16()]))
    for zero, experts in cases.items():
        for expert in experts:
            deltas = TaskDeltas([base.clone(), expert], base)
            assert stored(cutter(deltas)(0, size)) is not None
            assert cutter(deltas)(0, size).all_zero() is zero
            assert by_torch(monkeypatch, lambda deltas=deltas: cutter(deltas)(0, size).all_zero()) is zero


@pytest.mark.parametrize("make", [normal, grid, damaged])
def test_a_search_counts_and_collects_the_same(make: Make) -> None:
    for size in SIZES[1:]:
        base, *experts = make(size)
        deltas = TaskDeltas(experts, base)
        for rank in (1, size // 100 + 1, size // 2 + 1):
            values = magnitude(deltas, 0).numpy()
            sample = values[::7] if size > 100 else None
            one, other = _Search(rank, size, sample), _Search(rank, size, sample)
            for piece in pieces(deltas):
                fast = stored(piece)
                assert fast is not None
                one.feed(magnitude(piece, 0).numpy())
                other.add(*fast.bracketed(0, other.low, other.high, other.heavy))
            assert (one.above, one.heavy_counts) == (other.above, other.heavy_counts)
            assert [list(part) for part in one.collected if len(part)] == [
                list(part) for part in other.collected if len(part)
            ]


@pytest.mark.parametrize("change", [0.0, -0.0, 1e-3, -0.7, 3e-39, 1e37, torch.inf, torch.nan])
def test_a_base_plus_a_delta_is_rounded_and_checked_as_torch_does(change: float) -> None:
    base = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)  # all there are
    noise = torch.rand(base.shape, generator=torch.Generator().manual_seed(0)) if change not in (0.0, 1e-3) else 1.0
    delta = torch.full(base.shape, change) * noise
    total = base.float() + delta
    fits = total.abs() <= torch.finfo(torch.bfloat16).max  # not for a NaN

    def added(places: Tensor) -> Tensor | None:
        of = base[places]
        fast = stored(cutter(TaskDeltas([of.clone()], of))(0, of.numel()))
        assert fast is not None
        return fast.added(delta[places])

    result = added(fits)
    assert result is not None
    assert same(result, total[fits].bfloat16())
    for place in (~fits).nonzero()[:300, 0]:
        assert added(torch.arange(max(int(place) - 40, 0), int(place) + 1)) is None


def test_what_is_not_plain_bfloat16_stays_with_torch() -> None:
    base, *experts = normal(600)
    assert stored(cutter(TaskDeltas(experts, base))(0, 9)) is not None
    others = [
        TaskDeltas(experts),
        TaskDeltas([*experts[:2], None], base),
        TaskDeltas([*experts[:2], experts[2].float()], base),
        TaskDeltas(experts, base.half()),
        TaskDeltas(experts, base, precision="float64"),
        TaskDeltas(experts, base, changes=[LowRank(torch.ones(600, 1), torch.ones(1, 1)), None, None, None]),
        TaskDeltas([one[::2] for one in experts], base[::2]),
        TaskDeltas([one.view(20, 30).T for one in experts], base.view(20, 30).T),
    ]
    assert [stored(cutter(one)(0, 9)) for one in others] == [None] * len(others)


def models(folder: Path, count: int = 3, large: float = 1.0) -> list[Path]:
    generator = torch.Generator().manual_seed(7)
    base = {f"layers.{layer}.mlp.weight": torch.randn(300, 40, generator=generator) for layer in range(3)}
    base |= {"layers.0.norm.weight": torch.ones(5), "layers.1.empty": torch.empty(0, 4)}
    mask = {"layers.0.mask": torch.full((4, 4), -torch.inf).triu(1).bfloat16()}
    made = []
    for number in range(count + 1):
        tensors = {
            name: (one + number * 0.1 * torch.randn(one.shape, generator=generator)) * (large if number else 1)
            for name, one in base.items()
        }
        made.append(write_checkpoint(folder / f"m{number}", {n: t.bfloat16() for n, t in tensors.items()} | mask))
    return made


RECIPES: list[dict[str, Any]] = [
    {"merge_method": "task_arithmetic", "parameters": {"lambda": 0.7}},
    {"merge_method": "task_arithmetic", "dtype": "float32"},
    {"merge_method": "ties", "parameters": {"density": 0.3}},
    {"merge_method": "ties", "outputs": [{"path": "a"}, {"path": "b", "parameters": {"lambda": 0.5}}]},
    {"merge_method": "ties", "calibrate": "svc"},
    {"merge_method": "dare_ties", "parameters": {"density": 0.3}},
    {"merge_method": "dare_linear", "parameters": {"density": 0.3}},
]


@pytest.mark.parametrize("keys", RECIPES)
def test_a_merge_writes_the_same_bytes(keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = dict(keys)
    recipe = recipe_data(models(tmp_path), keys.pop("merge_method"), **keys)
    svc_dist.merge(recipe, tmp_path / "fast", executor="inline")
    by_torch(monkeypatch, lambda: svc_dist.merge(recipe, tmp_path / "torch", executor="inline"))
    files = sorted(one.relative_to(tmp_path / "fast") for one in (tmp_path / "fast").rglob("*.safetensors"))
    assert files
    for file in files:
        assert (tmp_path / "fast" / file).read_bytes() == (tmp_path / "torch" / file).read_bytes()


def test_a_result_that_does_not_fit_is_refused_as_before(tmp_path: Path) -> None:
    recipe = recipe_data(models(tmp_path, large=5e37), "task_arithmetic")
    with pytest.raises((NumericsError, UnitsFailedError), match="does not fit into bfloat16"):
        svc_dist.merge(recipe, tmp_path / "out", executor="inline")
