"""Grids under ``outputs``: a result for each combination of values, in a folder named after them."""

from __future__ import annotations

import pytest

from svc_dist.recipe.edits.changes import parse_changes
from svc_dist.recipe.load import parse_recipe
from tests.support.recipes import MINIMAL, refused, resolved

SVC = MINIMAL + "calibrate: svc\n"


def paths(text: str) -> list[str]:
    return [result.path for result in resolved(text).results]


@pytest.mark.parametrize(
    ("outputs", "folders"),
    [
        ("{lambda: [0.3, 0.5, 0.7]}", ["lambda-0.3", "lambda-0.5", "lambda-0.7"]),
        ("[{lambda: [0.3, 1]}]", ["lambda-0.3", "lambda-1"]),
        ("[{path: 'l{lambda}', lambda: [1e-5]}]", ["l1e-05"]),
        ("[{path: sweep, lambda: [0.3, 0.5]}]", ["sweep/lambda-0.3", "sweep/lambda-0.5"]),
        ("{grid: {lambda: [1, 2], calibrate.alpha: [0.3, 0.6]}}",
         ["lambda-1_alpha-0.3", "lambda-1_alpha-0.6", "lambda-2_alpha-0.3", "lambda-2_alpha-0.6"]),
        ("{path: '{alpha}/{lambda}', lambda: [1], grid: {calibrate.alpha: [0.3]}}", ["0.3/1"]),
        ("{path: '{calibrate.alpha}', grid: {calibrate.alpha: [0.3]}}", ["0.3"]),
        ("{grid: {calibrate: [none, svc, {method: svc, alpha: 0.5}]}}",
         ["calibrate-none", "calibrate-svc", "calibrate-svc-0.5"]),
        ("{grid: {parameters.weight: [[0, 1], 0.5], parameters.normalize: [true]}}",
         ["weight-0-1_normalize-true", "weight-0.5_normalize-true"]),
        ("[{path: plain, calibrate: none}, {lambda: [0.3, 0.5]}]", ["plain", "lambda-0.3", "lambda-0.5"]),
    ],
)  # fmt: skip
def test_folders_are_named_after_values(outputs: str, folders: list[str]) -> None:
    assert paths(SVC + f"outputs: {outputs}") == folders


def test_a_grid_is_the_same_recipe_as_its_entries_written_out() -> None:
    grid = "outputs: {calibrate: {side: right}, grid: {lambda: [1, 2], calibrate.alpha: [0.3, 0.6]}}"
    entries = [
        f"{{path: lambda-{scale}_alpha-{alpha}, lambda: {scale}, calibrate: {{side: right, alpha: {alpha}}}}}"
        for scale in (1, 2)
        for alpha in (0.3, 0.6)
    ]
    assert resolved(SVC + grid) == resolved(SVC + f"outputs: [{', '.join(entries)}]")
    assert "grid" not in str(resolved(SVC + grid).plain)


def test_a_list_under_parameters_is_a_gradient_still() -> None:
    (result,) = resolved(SVC + "outputs: [{path: a, parameters: {lambda: [0.3, 0.5]}}]").results
    assert result.default.at("x", 0.5)["lambda"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ("{lambda: [0.3, 0.3]}", "r.yaml:8 (outputs.path): two results would be lambda-0.3\n  take each value once"),
        ("{path: 'l{lambda}', lambda: [1], grid: {calibrate.alpha: [0.3, 0.6]}}", "add {alpha} to the path"),
        ("{path: 'l{lamda}', lambda: [1]}", "{lamda} is no key of the grid\n  did you mean 'lambda'?"),
        ("{path: 3, lambda: [1]}", "3 must be text"),
        ("{grid: {density: [1]}}", "(outputs.grid.density): 'density' is no key of a grid\n  a grid has lambda, "),
        ("{grid: {density: [1]}}", "parameters.NAME and calibrate.NAME, like parameters.density"),
        ("{grid: {lambda: 0.3}}", "0.3 must be a list with at least one value"),
        ("{lambda: []}", "[] must be a list with at least one value"),
        ("{grid: [0.3]}", "a grid is a mapping of keys to lists"),
        ("{lambda: [1], grid: {parameters.lambda: [2]}}", "lambda is given twice"),
        ("{lambda: 1, grid: {lambda: [2]}}", "lambda is given twice"),
        ("[{path: lambda-1}, {lambda: [1]}]", "lambda-1 and lambda-1 must be separate folders"),
        ("{lambda: [1, x]}", "r.yaml:8 (outputs[1].lambda): "),
        ("\n  grid:\n    calibrate.alpha:\n      - 0.3\n      - 0", "r.yaml:12 (outputs[1].calibrate.alpha)"),
        ("{grd: {lambda: [1]}, lambda: [1]}", "(outputs[0].grd): unknown key 'grd'; did you mean 'grid'?"),
        (f"{{grid: {{lambda: {[*range(40)]}, parameters.weight: {[*range(40)]}}}}}", "the grid makes 1,600 results"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_refused(outputs: str, words: str) -> None:
    assert words in refused(SVC + f"outputs: {outputs}")


def test_a_grid_is_set_on_the_command_line() -> None:
    changes = parse_changes(["outputs={lambda: [0.3, 0.5]}"])
    results = parse_recipe(SVC, "r.yaml", "/recipes", changes=changes).results
    assert [result.path for result in results] == ["lambda-0.3", "lambda-0.5"]
