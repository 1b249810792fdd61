"""What is computed of many matrices at once is what is computed of each: ``svc_dist.methods.batches.matrices``,
``svc_dist.methods.batches.noise``, ``svc_dist.methods.batches.groups``, ``svc_dist.methods.batches.forms``,
``svc_dist.methods.batches.calibrated`` and ``svc_dist.methods.batches.merged``, which
``tests/run/results/test_on_device.py`` runs on a pretended device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from svc_dist.linalg.rounding import storage_rounding
from svc_dist.methods.batches import forms
from svc_dist.methods.batches.calibrated import svc
from svc_dist.methods.batches.matrices import Alone, leading_of_each, polars, require_fit, require_orthonormal
from svc_dist.methods.batches.merged import merged_batch
from svc_dist.methods.batches.noise import storage_roundings
from svc_dist.methods.calibration.svc import svc as calibrated
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.spectral.subspaces import iso_c, tsv_m
from svc_dist.methods.spectral.swudi import swudi

COUNT, EXPERTS = 4, 3


def deltas_of(rows: int, columns: int, zero_rows: int = 0) -> TaskDeltas:
    made = torch.Generator().manual_seed(3)
    shape = (COUNT, rows, columns)
    base = torch.randn(shape, generator=made) * 0.02
    shared = torch.randn(COUNT, rows, 4, generator=made) @ torch.randn(COUNT, 4, columns, generator=made) * 0.004
    tunes = [base + shared + 0.004 * torch.randn(shape, generator=made) for _ in range(EXPERTS)]
    views = [one.bfloat16() for one in (base, *tunes)]
    for view in views[1:]:
        view[1, :zero_rows] = views[0][1, :zero_rows]
    return TaskDeltas(views[1:], views[0])


def each(deltas: TaskDeltas) -> list[TaskDeltas]:
    return [deltas.matrix(number, (COUNT, *deltas.shape[1:])) for number in range(COUNT)]  # type: ignore[arg-type]


def off(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(("rows", "columns"), [(24, 40), (40, 24)])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", ["iso_c", "tsv_m", "swudi"])
def test_each_matrix_is_merged_and_calibrated_as_by_itself(method: str, rows: int, columns: int, side: str) -> None:
    deltas = deltas_of(rows, columns, zero_rows=20 if rows < columns and method != "tsv_m" else 0)
    batch = getattr(forms, method)(deltas, **SETTINGS.get(method, {}))
    after = svc(batch, deltas, alpha=[1 / EXPERTS], side=side)
    for number, one in enumerate(each(deltas)):
        alone = (
            next(swudi(one, **SETTINGS["swudi"]))
            if method == "swudi"
            else {"iso_c": iso_c, "tsv_m": tsv_m}[method](one)
        )
        assert off(batch.delta[number], alone.delta) < 2e-5
        assert set(batch.summaries[number]) == set(alone.summary)
        assert batch.summaries[number]["kept_rank"] == alone.summary["kept_rank"]
        assert batch.summaries[number]["cut"] == alone.summary["cut"]
        result = next(calibrated(alone, one, alpha=[1 / EXPERTS], side=side))
        assert off(after.delta[number], result.delta) < 2e-5
        assert after.summaries[number]["gamma_by_energy"] == pytest.approx(result.summary["gamma_by_energy"], rel=1e-5)


SETTINGS: dict[str, dict[str, Any]] = {"swudi": {"exp_time": [300.0], "rank_ratio": 0.65, "init": "sum"}}


def test_the_rounding_of_storage_is_that_of_each_matrix() -> None:
    deltas = deltas_of(24, 40, zero_rows=5)
    stored, base = deltas.experts[0], deltas.base_view
    assert stored is not None
    assert base is not None
    found = storage_roundings(stored, base)
    for number in range(COUNT):
        one = storage_rounding(stored[number], base[number], "cpu")
        assert torch.allclose(found.rows[number], one.rows, rtol=1e-12, atol=0)
        assert torch.allclose(found.columns[number], one.columns, rtol=1e-12, atol=0)


def test_polar_factors_leave_rows_of_zeros_alone() -> None:
    rows = torch.randn(COUNT, 6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = torch.ones(COUNT, 6, dtype=torch.float64)
    rows[2, 4:], kept[2, 4:] = 0, 0
    factors, worst = polars(rows, kept)
    require_orthonormal(worst)
    left, _, right = torch.linalg.svd(rows[2, :4], full_matrices=False)
    assert off(factors[2, :4], left @ right) < 1e-12
    assert not factors[2, 4:].any()
    with pytest.raises(Alone):
        require_orthonormal(polars(rows, torch.ones_like(kept))[1])


def test_what_does_not_fit_is_left_to_each_matrix() -> None:
    require_fit(torch.tensor([1e-15, 0.0], dtype=torch.float64), 64)
    for residual in (1e-10, float("nan")):
        with pytest.raises(Alone):
            require_fit(torch.tensor([1e-15, residual], dtype=torch.float64), 64)
    with pytest.raises(Alone):  # the experts' directions depend on one another
        forms.tsv_m(deltas_of(24, 40, zero_rows=20))
    deltas = deltas_of(24, 40)
    deltas.experts[1][2, 3, 4] = torch.nan  # type: ignore[index]
    with pytest.raises(Alone):
        forms.iso_c(deltas)


def test_on_the_cpu_matrices_are_merged_one_by_one() -> None:
    assert merged_batch(deltas_of(24, 40), "iso_c", {}, None) is None


def test_leading_values_of_each() -> None:
    matrices = torch.randn(COUNT, 20, 50, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(leading_of_each(matrices, 4), torch.linalg.svdvals(matrices.double())[:, :4], rtol=0.02)
