"""A plan with ``auto`` is the plan of the recipe that names what was chosen, and says what was chosen and why."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import svc_dist
from svc_dist.cli.texts import plan_lines
from svc_dist.errors import RecipeError, warning_code
from svc_dist.plan.auto.chosen import choice_lines, choice_markdown
from svc_dist.plan.model import Plan
from tests.support.checkpoints import recipe_data, write_llamas


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("llamas"))


def plan(data: Any) -> Plan:
    return svc_dist.make_plan(data, device="cpu")


def test_the_plan_is_that_of_the_chosen_keys(models: list[Path]) -> None:
    left = plan(recipe_data(models, "auto"))
    assert left.auto is not None
    assert left.auto.keys["merge_method"] == "swudi"
    named = plan(recipe_data(models, **{"method": left.auto.keys["merge_method"]} | {
        key: left.auto.keys[key] for key in ("parameters", "calibrate")
    }))  # fmt: skip
    assert left.fingerprint == named.fingerprint
    assert left.recipe == named.recipe
    assert replace(left, auto=None, warnings=named.warnings) == named


def test_a_calibration_alone(models: list[Path]) -> None:
    left = plan(recipe_data(models, "tsv_m", calibrate="auto"))
    assert left.auto is not None
    assert left.auto.asked == {"merge_method": "tsv_m", "calibrate": "auto", "parameters": {}}
    assert left.fingerprint == plan(recipe_data(models, "tsv_m", calibrate="svc")).fingerprint


def test_the_recipes_scale_decides_too(models: list[Path], tmp_path: Path) -> None:
    many = write_llamas(tmp_path, experts=6)
    found = [
        plan(recipe_data(many, "tsv_m", calibrate="auto", parameters={"lambda": scale})).recipe["calibrate"]
        for scale in (0.5, 1.0)
    ]
    assert found == [{"method": "svc"}, {"method": "svc", "alpha": 0.5}]


def test_a_plan_with_auto_survives_json(models: list[Path]) -> None:
    made = plan(recipe_data(models, "auto"))
    assert Plan.from_json(made.to_json()) == made


def test_a_plan_without_auto_does_not_mention_it(models: list[Path]) -> None:
    assert '"auto"' not in plan(recipe_data(models)).to_json()


def test_a_plan_says_what_was_chosen_and_why(models: list[Path]) -> None:
    made = plan(recipe_data(models, "auto"))
    lines = list(plan_lines(made))
    number = next(n for n, line in enumerate(lines) if line.startswith("auto chose"))
    assert lines[number].startswith("auto chose swudi (exp_time 300, rank_ratio 0.3), without calibration, for 2 full")
    own = list(choice_lines(made.auto))
    assert lines[number : number + len(own)] == own
    assert max(map(len, own)) <= 80
    said = " ".join(line.strip() for line in own)
    assert (
        "the number and the kind of the experts decide; for information, from 23.04 kB of 14 matrices: the plain"
        in said
    )
    warning = next(one for one in made.warnings if warning_code(one) == "auto-experimental")
    assert "auto is experimental: it chose swudi" in warning


@pytest.mark.parametrize(
    ("method", "keys", "text"),
    [
        ("auto", {}, "merge_method: swudi\nparameters: {exp_time: 300, rank_ratio: 0.3}\ncalibrate: none\n"),
        ("iso_c", {"calibrate": "auto"}, "calibrate: {method: svc, alpha: 0.5}\n"),
        ("ties", {"calibrate": "auto"}, "calibrate: svc\n"),
    ],
)
def test_the_keys_to_paste_are_a_piece_of_a_recipe(
    method: str, keys: dict[str, str], text: str, models: list[Path]
) -> None:
    data = recipe_data(models, method, **keys)
    made = plan(data)
    _, _, pasted = "\n".join(choice_lines(made.auto)).partition("write these keys into the recipe:\n")
    assert textwrap.dedent(pasted) + "\n" == text
    assert plan(data | yaml.safe_load(textwrap.dedent(pasted))).fingerprint == made.fingerprint
    assert f"```yaml\n{text}```" in choice_markdown(made.auto)


def test_nothing_is_said_without_auto(models: list[Path]) -> None:
    made = plan(recipe_data(models))
    assert list(choice_lines(made.auto)) == []
    assert choice_markdown(made.auto) == ""
    assert not any(warning_code(one) == "auto-experimental" for one in made.warnings)


def test_documents_choose_for_themselves(models: list[Path]) -> None:
    first = {"name": "first", **recipe_data(models, "auto")}
    last = recipe_data(["first", *models[1:]], "linear")
    plans = svc_dist.make_plans([first, last], device="cpu")
    assert [one.auto is None for one in plans] == [False, True]
    assert plans[1].documents[0]["merge_method"] == "swudi"


def test_a_model_that_is_made_only_afterwards_is_refused(models: list[Path]) -> None:
    first = {"name": "first", **recipe_data(models, "linear")}
    last = recipe_data([models[0], models[1], "first"], "auto")
    with pytest.raises(RecipeError, match="but the document 'first' makes document://first only afterwards") as caught:
        svc_dist.make_plans([first, last], device="cpu")
    assert caught.value.code == "auto-refused"


def test_several_results_take_one_choice(models: list[Path]) -> None:
    made = plan(recipe_data(models, "auto", outputs=[{"path": "a"}, {"path": "b", "calibrate": "svc"}]))
    methods = [{one.method for one in result.dispositions if one.method} for result in made.results]
    assert methods == [{"swudi", "linear"}] * 2
    assert [any(one.calibration for one in result.dispositions) for result in made.results] == [False, True]
