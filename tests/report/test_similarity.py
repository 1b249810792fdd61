"""Experts in the order of their likeness, and the one to leave out."""

from __future__ import annotations

import numpy as np
import pytest

from svc_dist.plan.inputs import PlannedModel
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.similarity import Pair, closest, coinciding, order
from tests.report.test_diagnosis import report, upper


def of(*vectors: list[float]) -> Diagnosis:
    """Experts ``a``, ``b``, ... with these deltas."""
    models = tuple(PlannedModel(f"/models/{name}", ()) for name in ("base", *"abcdef"[: len(vectors)]))
    deltas = [{"tensor": "w", "base": 1.0, "gram": upper(list(vectors))}]
    return Diagnosis(report(models=models, deltas=deltas, matrices=[{"tensor": "w", "matrix": 0}]))


def test_like_experts_are_neighbours() -> None:
    cosines = np.eye(5)
    for i, j, value in ((0, 3, 0.9), (3, 1, 0.5), (2, 4, 0.8), (0, 2, 0.3)):
        cosines[i, j] = cosines[j, i] = value
    assert order(cosines) == [4, 2, 0, 3, 1]
    assert closest(cosines)[0] == Pair(0, 3, 0.9)
    assert order(np.eye(1)) == [0]
    assert order(np.zeros((0, 0))) == []


def test_the_one_to_leave_out_is_the_one_without_which_less_is_counted_twice() -> None:
    found = of([1.0, 0.0, 0.0], [1.0, 0.1, 0.4], [0.0, 0.0, 1.0])
    pair = coinciding(found)
    assert pair is not None
    assert (pair.first, pair.second) == (1, 0)  # b also overlaps with c
    assert pair.cosine == pytest.approx(1 / np.sqrt(1.17))
    without = found.times_without()
    assert without == pytest.approx([(1.0 + 0.01 + 1.96) / 2.17, 1.0, (4.0 + 0.01 + 0.16) / 2.17])


def test_experts_that_share_less_do_not_coincide() -> None:
    assert coinciding(of([1.0, 0.0], [0.8, 0.6])) is None
    assert coinciding(of([1.0, 0.0])) is None
