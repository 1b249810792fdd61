"""Device memory is planned with the solver's workspace, and a plan says which matrices are too large for the solver."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.errors import warning_code
from svc_dist.methods.costs import Work
from svc_dist.plan.costs import workspace
from svc_dist.plan.devices import solvers
from svc_dist.plan.devices.solvers import too_large
from svc_dist.plan.make import make_plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from tests.support.checkpoints import write_llamas, write_recipe

OLD = Settings(device="cuda", gpu="NVIDIA H100", build="2.13.0+cu128")
NEW = Settings(device="cuda", gpu="NVIDIA H100", build="2.13.0+cu130")


def test_the_workspace_is_that_of_the_largest_decomposition() -> None:
    work = Work(float64=1e12, eigen=((1000, 2.0), (200, 9.0)))
    assert workspace(work, "cuda") == 3 * 8 * 1000**2
    assert workspace(work, "cpu") == 0
    assert workspace(Work(float32=1e12), "cuda") == 0


def test_matrices_that_the_solver_does_not_take_are_named() -> None:
    works = [("a.weight", Work(eigen=((24_576, 1.0),))), ("b.weight", Work(eigen=((8192, 1.0),))), ("c.weight", Work())]
    (warning,) = too_large(works, OLD)
    assert "at most 23,000 rows, but larger ones (up to 24,576: a.weight) follow from 1 tensor:" in warning
    assert warning_code(warning) == "solver-too-small"
    assert not list(too_large(works, NEW))
    assert not list(too_large(works, Settings()))
    assert not list(too_large(works[1:], OLD))


def test_a_plan_for_an_old_build_says_which_way_its_matrices_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solvers, "largest_eigenproblem", lambda build: 30)
    models = write_llamas(tmp_path, hidden=32, intermediate=64)
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", models, calibrate="svc"))
    plans = [make_plan(recipe, settings) for settings in (OLD, Settings())]
    assert [one.partition(":")[0] for one in plans[0].warnings if "solver-too-small" in one]
    assert plans[0].units[0].memory > plans[1].units[0].memory
