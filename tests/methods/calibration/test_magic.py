"""MAGIC's weight space calibration against a plain form, and what must hold of it whatever the inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from svc_dist.errors import NumericsError
from svc_dist.linalg.precision import Precision
from svc_dist.methods.calibration.costs import magic_memory
from svc_dist.methods.calibration.magic import magic
from svc_dist.methods.costs import HEAP_SLACK
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.merged import Merged
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from tests.support import candidate_references as plain
from tests.support.elementwise_references import merged, parameters
from tests.support.peak_memory import CountedMemory
from tests.support.spectral_cases import error, fine_tunes, merge_matrix, stack, taken

TOLERANCE = {"float64": 1e-12, "mixed": 1e-6, "fast": 1e-6}


def result(models: list[Tensor], method: str, precision: str = "float64", **given: Any) -> Tensor:
    made = merge_matrix(
        taken(models, precision), METHODS[method], parameters(method, len(models) - 1), {"method": "magic", **given}
    )
    assert isinstance(made, Tensor)
    return made


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("shape", [(40, 64), (600, 24), (24, 600)], ids=str)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "iso_c"])
def test_it_agrees_with_the_plain_form(method: str, shape: tuple[int, int], precision: Precision) -> None:
    models = fine_tunes(*shape, 3)
    wide = taken(models, "float64")
    before = merge_matrix(wide, METHODS[method], parameters(method, 3))
    assert isinstance(before, Tensor)
    found = result(models, method, precision)
    assert error(found, plain.magic(before, stack(wide))) <= TOLERANCE[precision]
    assert found.dtype == (torch.float64 if precision == "float64" else torch.float32)


def test_one_expert_stays_as_it_is() -> None:
    models = fine_tunes(30, 40, 1)
    assert error(result(models, "task_arithmetic"), taken(models, "float64")[0]) <= 1e-12


def test_only_the_direction_of_the_merged_rows_counts() -> None:
    deltas = taken(fine_tunes(30, 40, 3), "float64")
    total = deltas.total()
    one, other = (magic(Merged(total * scale), deltas, limit="none").delta for scale in (1.0, 1e-3))
    assert error(one, other) <= 1e-12


def test_experts_at_right_angles_get_rows_of_their_own_length_back() -> None:
    # Two axes of lengths 3 and 4: the ellipse holds 3 e_1 / sqrt(2) + 4 e_2 / sqrt(2), which is their sum scaled.
    deltas = TaskDeltas([torch.tensor([[3.0, 0, 0]]), torch.tensor([[0, 4.0, 0]])], precision="float64")
    found = magic(Merged(torch.tensor([[3.0, 4.0, 0]], dtype=torch.float64)), deltas, limit="none")
    assert found.scale.tolist() == pytest.approx([0.5**0.5])
    beside = magic(Merged(torch.tensor([[0, 0, 7.0]], dtype=torch.float64)), deltas, limit="none")
    assert beside.delta.tolist()[0] == pytest.approx([0, 0, 3.5]), "a sphere of the mean length beside the axes"


def test_rows_that_only_grow_or_only_shrink() -> None:
    models = fine_tunes(60, 40, 3)
    total = taken(models, "float64").total()
    free = magic(Merged(total), taken(models, "float64"), limit="none").scale
    assert free.min() < 1
    half = Merged(total * torch.linspace(0.1, 2, 60, dtype=torch.float64)[:, None])
    deltas = taken(models, "float64")
    scales = {limit: magic(half, deltas, limit=limit).scale for limit in ("none", "amplify", "suppress")}
    assert scales["none"].min() < 1 < scales["none"].max()
    assert torch.equal(scales["amplify"], scales["none"].clamp_min(1))
    assert torch.equal(scales["suppress"], scales["none"].clamp_max(1))


def test_rows_without_a_change_stay_zero_and_experts_without_one_have_no_axis() -> None:
    models = fine_tunes(30, 40, 3)
    models[1][:10], models[2][5:15] = models[0][:10], models[0][5:15]
    deltas = taken(models, "float64")
    total = deltas.total()
    total[20] = 0
    found = magic(Merged(total), deltas, limit="none")
    assert torch.isfinite(found.delta).all()
    assert not found.delta[20].any()
    assert error(found.delta, plain.magic(total, stack(deltas))) <= 1e-12


def test_a_receipt_says_how_far_rows_were_scaled() -> None:
    models = fine_tunes(30, 40, 3)
    summaries: list[dict[str, Any]] = []
    given = parameters("task_arithmetic", 3), {"method": "magic"}
    after = merge_matrix(taken(models, "float64"), METHODS["task_arithmetic"], *given, summaries)
    before = taken(models, "float64").total()
    assert isinstance(after, Tensor)
    (said,) = summaries
    assert said["norm_merged"] == pytest.approx(float(before.norm()))
    assert said["norm_calibrated"] == pytest.approx(float(after.norm()))
    assert said["norm_changed"] == pytest.approx(float((after - before).norm()))
    assert said["row_scale_min"] <= said["row_scale_median"] <= said["row_scale_max"]


def test_an_expert_that_is_not_finite_is_no_scale() -> None:
    models = fine_tunes(30, 40, 2)
    models[1] = models[1].float()
    models[1][3, 4] = float("nan")
    with pytest.raises(NumericsError, match="not finite"):
        magic(Merged(taken(fine_tunes(30, 40, 2), "mixed").total()), taken(models, "mixed"), limit="none")


@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("shape", [(1280, 512), (512, 1280)], ids=str)
def test_memory_is_what_is_declared_whatever_the_number_of_experts(shape: tuple[int, int], precision: str) -> None:
    held = []
    for count in (2, 8):
        deltas = taken(fine_tunes(*shape, count), precision)
        before = Merged(merged("task_arithmetic", deltas))
        with CountedMemory() as memory:
            magic(before, deltas, limit="none")
        held.append(memory.mib)
    matrix = shape[0] * shape[1] * before.delta.element_size() / 2**20  # what is there before it begins
    assert held[1] <= 1.02 * held[0]
    assert held[0] + matrix <= 1.1 * magic_memory(*shape, 2, precision) / 2**20
    assert CALIBRATIONS["magic"].memory(*shape, 2, precision) == magic_memory(*shape, 2, precision) + HEAP_SLACK
