"""Several calibrations in order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from svc_dist.methods.apply import ResultParameters, merged_matrices
from svc_dist.methods.calibration.chain import chained, declared, names, steps
from svc_dist.methods.calibration.magic import magic
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.merged import Merged
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from tests.support.elementwise_references import parameters
from tests.support.spectral_cases import calibrated, error, fine_tunes, taken

SVC = CALIBRATIONS["svc"].complete({}, 3)
MAGIC = CALIBRATIONS["magic"].complete({}, 3)


def merge(
    models: list[Tensor], calibrations: list[Any], precision: str = "float64", method: str = "task_arithmetic"
) -> tuple[list[Tensor | LowRank], list[dict[str, Any]]]:
    """A result for each calibration, and their summaries."""
    deltas, given = taken(models, precision), parameters(method, 3)
    summaries: list[list[dict[str, Any]]] = [[] for _ in calibrations]
    results = [ResultParameters(given, one) for one in calibrations]
    found = dict(merged_matrices(deltas, METHODS[method], results, summaries))
    return [found[index] for index in range(len(calibrations))], [one for (one,) in summaries]


def test_one_calibration_stands_for_itself_and_several_have_steps() -> None:
    assert chained([]) is None
    assert chained([SVC]) is SVC
    both = chained([SVC, MAGIC])
    assert both == {"method": "svc, then magic", "steps": [SVC, MAGIC]}
    assert steps(None) == ()
    assert steps(SVC) == (SVC,)
    assert steps(both) == (SVC, MAGIC)
    assert names(both) == ("svc", "magic")


def test_each_calibration_starts_from_what_the_one_before_made() -> None:
    models = fine_tunes(40, 24, 3)
    deltas = taken(models, "float64")
    (there, back), _ = merge(models, [chained([SVC, MAGIC]), chained([MAGIC, SVC])])
    total = Merged(deltas.total())
    assert isinstance(there, Tensor)
    assert isinstance(back, Tensor)
    assert error(there, magic(Merged(calibrated(total, deltas)), deltas, limit="none").delta) <= 1e-12
    scaled = magic(total, deltas, limit="none").delta
    assert error(back, calibrated(Merged(scaled), deltas)) <= 1e-10
    assert error(there, back) > 1e-4, "the order counts"


@pytest.mark.parametrize("precision", ["mixed", "float64"])
def test_results_that_begin_alike_have_the_bytes_of_each_alone(precision: str) -> None:
    models = fine_tunes(40, 24, 3)
    wanted = [None, SVC, chained([SVC, MAGIC]), SVC | {"alpha": 0.7}, chained([MAGIC, SVC]), MAGIC]
    together, said = merge(models, wanted, precision)
    for index, one in enumerate(wanted):
        (alone,), (summary,) = merge(models, [one], precision)
        assert isinstance(alone, Tensor)
        assert isinstance(together[index], Tensor)
        assert torch.equal(alone, together[index])
        assert alone.dtype == together[index].dtype
        assert summary == said[index]


def test_directions_of_a_flat_spectrum_are_not_taken_for_those_of_a_scaled_one() -> None:
    models = fine_tunes(40, 24, 3)
    deltas = taken(models, "float64")
    (after,), _ = merge(models, [chained([MAGIC, SVC])], method="iso_c")
    (flat,), _ = merge(models, [MAGIC], method="iso_c")
    assert isinstance(after, Tensor)
    assert isinstance(flat, Tensor)
    assert error(after, calibrated(Merged(flat), deltas)) <= 1e-10


def test_a_receipt_holds_what_all_steps_did_together() -> None:
    models = fine_tunes(40, 24, 3)
    (before, after), (_, said) = merge(models, [None, chained([SVC, MAGIC])])
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    assert said["norm_merged"] == pytest.approx(float(before.norm()))
    assert said["norm_calibrated"] == pytest.approx(float(after.norm()))
    assert said["norm_changed"] == pytest.approx(float((after - before).norm()))
    assert {"gamma", "row_scale_min"} <= said.keys()
    exact = torch.linalg.svdvals(after)[:4].tolist()
    assert said["sigma_calibrated"][:4] == pytest.approx(exact, rel=0.05)


def test_costs_add_up_and_a_chain_is_factored_where_every_step_is() -> None:
    both = declared(("svc", "magic"))
    assert both is not None
    svc, own = CALIBRATIONS["svc"], CALIBRATIONS["magic"]
    assert both.work(40, 24, 3, "mixed") == svc.work(40, 24, 3, "mixed") + own.work(40, 24, 3, "mixed")
    assert both.memory(40, 24, 3, "mixed") == svc.memory(40, 24, 3, "mixed") + own.memory(40, 24, 3, "mixed")
    assert both.tells_sides
    assert not both.factored
    assert declared(("svc", "svc")).factored  # type: ignore[union-attr]
    assert declared(("svc",)) is svc
    assert declared(()) is None
