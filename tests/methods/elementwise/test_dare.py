"""DARE and DELLA: the right shares, the right factors, and the same draws wherever they are made."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import svc_dist
from svc_dist.errors import RecipeError
from svc_dist.methods import deltas as deltas_module
from svc_dist.methods.apply import elementwise_matrix
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.elementwise.draws import bernoulli, stream_key, uniform
from svc_dist.methods.elementwise.selection import places
from svc_dist.methods.registry import METHODS
from tests.support import elementwise_references as plain
from tests.support.checkpoints import write_checkpoint, write_recipe
from tests.support.elementwise_references import merged, parameters, whole

METHOD_NAMES = ["dare_linear", "dare_ties", "della_linear", "della"]


def ones(count: int, shape: tuple[int, ...] = (256, 512), tensor: str = "w") -> TaskDeltas:
    return TaskDeltas([torch.ones(shape)] * count, tensor=tensor)


def options(name: str) -> dict:
    return {"epsilon": 0.1} if name.startswith("della") else {}


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.9])
def test_dare_keeps_the_share_and_the_expectation(density: float) -> None:
    result = merged("dare_linear", ones(1), density=density)
    share = float((result != 0).double().mean())
    assert abs(share - density) < 5 * math.sqrt(density * (1 - density) / result.numel())
    assert torch.allclose(result[result != 0], torch.tensor(1 / density))


def test_without_rescaling_kept_entries_stay_as_they_are() -> None:
    for name in ("dare_linear", "della_linear"):
        result = merged(name, ones(1), density=0.4, rescale=False, **options(name))
        assert set(result.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_chunks_of_any_size_draw_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = TaskDeltas([torch.randn(300, 501, generator=generator) for _ in range(3)], tensor="w")
    one = merged(name, deltas, density=0.3, seed=5, **options(name))
    for size in (501, 5010, 1 << 20):
        monkeypatch.setattr(deltas_module, "CHUNK", size)
        assert torch.equal(whole(name, deltas, density=0.3, seed=5, **options(name)), one)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_part_of_a_tensor_draws_what_the_whole_does(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(40, 33, generator=generator) for _ in range(2)]
    one = merged(name, TaskDeltas(tensors, tensor="w"), density=0.3, **options(name))
    rows = TaskDeltas([tensor[7:19] for tensor in tensors], tensor="w", offset=7 * 33)
    assert torch.equal(merged(name, rows, density=0.3, **options(name)), one[7:19])


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_seed_tensor_and_expert_each_change_the_draws(name: str) -> None:
    def mask(index: int = 0, seed: int = 0, tensor: str = "w") -> torch.Tensor:
        weight = [1.0 if index == other else 0.0 for other in range(2)]
        return merged(name, ones(2, tensor=tensor), weight=weight, density=0.5, seed=seed, **options(name)) != 0

    masks = [mask(), mask(index=1), mask(seed=1), mask(tensor="v")]
    assert torch.equal(masks[0], mask())
    for first in range(4):
        for second in range(first):
            same = float((masks[first] == masks[second]).double().mean())
            assert abs(same - 0.5) < 0.01


def test_draws_ignore_and_leave_alone_the_global_generators() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = merged("dare_ties", ones(2), density=0.5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(2)
    assert torch.equal(merged("dare_ties", ones(2), density=0.5), one)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_full_density_drops_nothing(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(30, 40, generator=generator).double() for _ in range(3)]
    result = merged(name, TaskDeltas(tensors, precision="float64"), normalize=False)
    expected = sum(tensors) if name.endswith("linear") else plain.consensus(tensors, [1.0] * 3, False)
    assert torch.allclose(result, expected, rtol=1e-13)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_zero_density_drops_everything(name: str) -> None:
    assert not merged(name, ones(2), density=0.0).any()


@pytest.mark.parametrize("name", ["dare_ties", "della"])
def test_election_follows_the_drops(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(30, 40, generator=generator).double() for _ in range(3)]
    deltas = TaskDeltas(tensors, precision="float64", tensor="w")
    alone = [
        merged(name.replace("ties", "linear") if name == "dare_ties" else "della_linear", deltas,
               weight=[1.0 if i == j else 0.0 for j in range(3)], density=0.4, **options(name))
        for i in range(3)
    ]  # fmt: skip
    result = merged(name, deltas, weight=[0.3, 0.5, 0.2], density=0.4, normalize=True, **options(name))
    assert torch.allclose(result, plain.consensus(alone, [0.3, 0.5, 0.2], True), rtol=1e-12, atol=1e-15)


def test_della_keeps_by_rank_within_each_row() -> None:
    rows, columns, density, epsilon = 4000, 21, 0.4, 0.2
    generator = torch.Generator().manual_seed(0)
    ranks = torch.stack([torch.randperm(columns, generator=generator) for _ in range(rows)])
    delta = (ranks + 1.0) * torch.linspace(1, 9, rows)[:, None]
    delta[::2] *= -1
    result = merged("della_linear", TaskDeltas([delta], tensor="w"), density=density, epsilon=epsilon)
    for rank in range(columns):
        probability = density - epsilon + 2 * epsilon * rank / (columns - 1)
        at_rank = ranks == rank
        share = float((result[at_rank] != 0).double().mean())
        assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / rows)
        taken = at_rank & (result != 0)
        assert torch.allclose(result[taken], delta[taken] / probability, rtol=1e-5)


def test_della_ranks_alike_in_both_precisions_and_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    delta = torch.randint(-3, 4, (50, 70), generator=generator).float()
    results = [
        merged("della_linear", TaskDeltas([delta], precision=precision, tensor="w"), density=0.5, epsilon=0.3)
        for precision in ("mixed", "float64")
    ]
    assert torch.allclose(results[0].double(), results[1], rtol=1e-5)


def test_della_takes_vectors_scalars_and_rows_of_one() -> None:
    for shape in ((100_000,), (), (50, 1)):
        deltas = TaskDeltas([torch.ones(shape)], tensor="w")
        values = set(merged("della_linear", deltas, density=0.5, epsilon=0.0).unique().tolist())
        assert values <= {0.0, 2.0}
    row = merged("della_linear", TaskDeltas([torch.ones(300_000)], tensor="w"), density=0.5, epsilon=0.4)
    assert (row[:1000] != 0).double().mean() < 0.2 < 0.8 < (row[-1000:] != 0).double().mean()


def test_della_refuses_probabilities_outside_of_0_and_1() -> None:
    with pytest.raises(RecipeError, match=r"density 0\.1 with epsilon 0\.2"):
        merged("della", ones(1), density=0.1, epsilon=0.2)
    with pytest.raises(RecipeError, match=r"density 0\.9 with epsilon 0\.1"):
        METHODS["della"].require_possible(parameters("della", 2, density=[0.5, 0.9], epsilon=0.1), 2)
    METHODS["della"].require_possible(parameters("della", 2), 2)


@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_a_dropped_nan_still_shows(name: str, density: float) -> None:
    tensor = torch.ones(20, 300)
    tensor[3] = math.nan
    tensor[4] = math.inf
    result = merged(name, TaskDeltas([tensor, torch.ones(20, 300)]), density=density, **options(name))
    assert not torch.isfinite(result[3:5]).any()
    assert torch.isfinite(result[:3]).all()


def test_inputs_are_left_alone() -> None:
    tensor = torch.randn(20, 30)
    before = tensor.clone()
    for name in METHOD_NAMES:
        merged(name, TaskDeltas([tensor]), density=0.5, **options(name))
    assert torch.equal(tensor, before)


@given(st.integers(0, 2000), st.integers(0, 500), st.integers(0, 500), st.floats(0, 1))
@settings(max_examples=50)
def test_draws_of_a_range_are_a_part_of_those_of_a_larger_one(start: int, before: int, more: int, p: float) -> None:
    key = stream_key(3, "model.layers.0", 1, "dare")
    first, last = max(0, start - before), start + 10 + more
    inside = slice(start - first, start - first + 10)
    assert (bernoulli(key, first, last, p)[inside] == bernoulli(key, start, start + 10, p)).all()
    assert (uniform(key, first, last)[inside] == uniform(key, start, start + 10)).all()


def test_draws_far_into_a_tensor() -> None:
    key = stream_key(0, "w", 0, "dare")
    start = 3 * 2**40 + 5
    assert 400 < bernoulli(key, start, start + 1000, 0.5).sum() < 600


def test_probabilities_between_bytes_are_exact() -> None:
    """Bytes alone would know 1/256 and 2/256 only."""
    key, probability, numel = stream_key(0, "w", 0, "dare"), 1.5 / 256, 1 << 22
    share = bernoulli(key, 0, numel, probability).mean()
    assert abs(share - probability) < 5 * math.sqrt(probability / numel)


def test_uniform_numbers_are_uniform() -> None:
    numbers = uniform(stream_key(0, "w", 0, "della"), 0, 1 << 20)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=64, range=(0, 1))[0]
    assert abs(counts - (1 << 14)).max() < 6 * math.sqrt(1 << 14)


def test_draws_are_the_documented_stream() -> None:
    """Results of earlier runs can be reproduced: the stream is part of a method's version."""
    key = stream_key(42, "model.layers.0.mlp.up_proj.weight", 2, "dare")
    assert key.hex() == "2c46c7d982c4905cff2913c70eabf16b49de759f41aee37e8576df1a72365f74"
    assert bernoulli(key, 0, 16, 0.5).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1]
    assert bernoulli(key, 1000, 1016, 0.3).tolist() == [1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1]
    assert uniform(key, 0, 3).tolist() == pytest.approx([0.580590606, 0.437775254, 0.390648007], rel=1e-7)


def test_words_are_those_of_splitmix64() -> None:
    """Seed 0 and the golden ratio: the published outputs."""
    key = (0).to_bytes(8, "little") + (0x9E3779B97F4A7C15).to_bytes(8, "little")
    words = uniform(key, 2, 6)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    halves = [half for word in published for half in (word & 0xFFFFFFFF, word >> 32)]
    assert words.tolist() == [(half >> 8) * 2.0**-24 for half in halves]


@given(st.integers(0, 300), st.integers(0, 9), st.sampled_from([0.0, 0.004, 0.1, 0.9, 1.0]), st.integers(0, 99))
@settings(max_examples=50)
def test_places_are_those_that_hold(length: int, start: int, share: float, seed: int) -> None:
    holds = (np.random.default_rng(seed).random(length + start) < share)[start:]
    assert (places(holds) == np.flatnonzero(holds)).all()


def test_one_function_serves_whole_tensors_and_pieces() -> None:
    deltas = ones(2)
    values = parameters("dare_ties", 2, density=0.3)
    found = elementwise_matrix(deltas, METHODS["dare_ties"], values)
    assert torch.equal(found, whole("dare_ties", deltas, density=0.3))


def test_a_kernel_is_pruned_as_the_matrix_that_it_is(tmp_path: Path) -> None:
    name, generator = "layers.0.conv.weight", torch.Generator().manual_seed(0)
    kernels = [torch.randn(8, 6, 3, 3, generator=generator) for _ in range(3)]
    written = []
    for kind, shape in (("kernel", (8, 6, 3, 3)), ("matrix", (8, 54))):
        models = [write_checkpoint(tmp_path / f"{kind}{i}", {name: one.view(shape)}) for i, one in enumerate(kernels)]
        recipe = write_recipe(tmp_path / f"{kind}.yaml", models, "della", parameters={"density": 0.5})
        svc_dist.merge(recipe, tmp_path / kind, executor="inline")
        written.append(load_file(tmp_path / kind / "model.safetensors")[name].view(-1))
    assert torch.equal(*written)
