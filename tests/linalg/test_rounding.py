"""What storage rounds is known from the weights and their dtype, cut where a method would lift it, and counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.linalg.rounding import values_dtype
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.spectral.subspaces import rounding_of, rounding_of_sum
from tests.support.spectral_cases import error, run

SIZE, RANK, EXPERTS = 96, 4, 3
LIFTING = ("iso_c", "iso_cts", "tsv_m")


def lora(seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(SIZE, RANK, generator=generator) / 20, torch.randn(RANK, SIZE, generator=generator) / 20)
        for _ in range(EXPERTS)
    ]


def merged_files(dtype: torch.dtype, base: Tensor, written: torch.dtype | None = None) -> list[Tensor]:
    experts = [(base.double() + left.double() @ right.double()).to(dtype) for left, right in lora(1)]
    return [expert.to(written or dtype) for expert in experts]


def base_of(dtype: torch.dtype, spread: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.exp(spread * torch.randn(SIZE, 1, generator=generator))
    return (0.02 * scales * torch.randn(SIZE, SIZE, generator=generator)).to(dtype)


@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("name", LIFTING)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_adapters_that_were_merged_into_files_give_what_the_adapters_give(
    dtype: torch.dtype, name: str, precision: str
) -> None:
    exact = TaskDeltas([left.double() @ right.double() for left, right in lora(1)], precision="float64")
    base = base_of(dtype)
    stored = run(name, TaskDeltas(merged_files(dtype, base), base, precision=precision))
    expected = run(name, exact)
    assert stored.summary["kept_rank"] == expected.summary["kept_rank"] == EXPERTS * RANK
    assert error(stored.delta, expected.delta) <= {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float32: 1e-4}[dtype]
    assert stored.summary["cut_as_storage_rounding"] > 0 or dtype == torch.float32


def test_rows_of_very_different_size_are_rounded_each_at_its_own_level() -> None:
    base = base_of(torch.bfloat16, spread=1.5)
    result = run("iso_c", TaskDeltas(merged_files(torch.bfloat16, base), base))
    assert result.summary["kept_rank"] == EXPERTS * RANK


def test_weights_that_were_written_wider_are_rounded_as_their_values_are() -> None:
    base = base_of(torch.bfloat16)
    narrow = TaskDeltas(merged_files(torch.bfloat16, base), base)
    wide = TaskDeltas(merged_files(torch.bfloat16, base, torch.float32), base.float())
    assert torch.equal(rounding_of_sum(narrow).rows, rounding_of_sum(wide).rows)
    assert run("iso_c", wide).summary["kept_rank"] == EXPERTS * RANK


@pytest.mark.parametrize(
    ("stored", "narrow"),
    [
        (torch.tensor([1.0, 0.5]), torch.bfloat16),
        (torch.tensor([1.0 + 2**-9]), torch.float16),
        (torch.tensor([1.0 + 2**-20]), torch.float32),
        (torch.tensor([1.0 + 2**-20], dtype=torch.float64), torch.float32),
        (torch.tensor([1.0 + 2**-40], dtype=torch.float64), torch.float64),
        (torch.tensor([1.0], dtype=torch.float16), torch.float16),
    ],
)
def test_the_dtype_of_the_values_is_the_narrowest_that_holds_them(stored: Tensor, narrow: torch.dtype) -> None:
    assert values_dtype(stored) == narrow


def test_adapters_and_what_an_expert_has_not_changed_are_not_rounded() -> None:
    base = base_of(torch.bfloat16)
    expert = base.clone()
    expert[5, 3:7] *= 2
    noise = rounding_of(TaskDeltas([expert], base), 0)
    assert noise.rows.nonzero().flatten().tolist() == [5]
    assert noise.columns.nonzero().flatten().tolist() == [3, 4, 5, 6]
    left, right = lora(1)[0]
    assert not rounding_of(TaskDeltas([None], base, changes=[LowRank(left, right)]), 0).rows.any()


def test_a_full_fine_tune_above_the_rounding_level_keeps_its_directions() -> None:
    base = base_of(torch.float32)
    generator = torch.Generator().manual_seed(2)
    experts = [base + 1e-3 * torch.randn(SIZE, SIZE, generator=generator) for _ in range(EXPERTS)]
    assert run("iso_c", TaskDeltas(experts, base)).summary["cut"] == 0


def test_deltas_without_a_base_are_rounded_as_they_are_stored() -> None:
    exact = [left.double() @ right.double() for left, right in lora(1)]
    for name in LIFTING:
        expected = run(name, TaskDeltas(exact, precision="float64")).delta
        found = run(name, TaskDeltas([delta.float() for delta in exact], precision="float64"))
        assert error(found.delta, expected) <= 1e-5, name
