"""Options of a run validate themselves, and say when they change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import svc_dist
from svc_dist.errors import RecipeError
from svc_dist.run.options import Limits, Options
from svc_dist.storage.access import Access
from tests.support.checkpoints import recipe_data, write_checkpoint, write_llamas


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: Options(executor="rya"),
            "executor is 'rya', but must be one of auto, inline, ray\n  did you mean 'ray'",
        ),
        (lambda: Options(slots=0), "slots is 0"),
        (lambda: Options("inline", "auto"), "address is 'auto', but executor is inline"),
        (lambda: Limits(grace=-1), "grace is -1, but must be a number of seconds"),
        (lambda: Limits(runtime=float("nan")), "max_runtime is nan"),
        (lambda: Limits(unit=float("inf")), "unit_deadline is inf"),
    ],
)
def test_a_wrong_option_is_refused_with_its_value_and_what_is_allowed(build: Callable[[], object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build()


def test_options_that_change_nothing_are_a_warning(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(recipe_data(write_llamas(tmp_path)))
    options = Options(limits=Limits(unit=7), scratch="/tmp")
    assert [line.split()[0] for line in options.without_effect("inline", plan, Access())] == [
        "unit_deadline",
        "scratch",
    ]
    assert [line.split()[0] for line in options.without_effect("ray", plan, Access())] == ["scratch"]
    assert not list(Options().without_effect("inline", plan, Access()))


def test_scratch_takes_the_parts_of_tensors_that_an_input_stores_apart(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts"
    base = write_checkpoint(tmp_path / "base", {f"{name}.down_proj": torch.ones(2, 4, 6)})
    single = {f"{name}.{number}.down_proj.weight": torch.ones(4, 6) for number in range(2)}
    models = [base, write_checkpoint(tmp_path / "single", single)]
    plan = svc_dist.make_plan(recipe_data(models))
    assert plan.joins
    assert list(Options(scratch="/tmp").without_effect("ray", plan, Access())) == []
