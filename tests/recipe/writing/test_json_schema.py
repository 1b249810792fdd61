"""The schema takes every recipe of the package, and refuses what loading a recipe refuses or warns about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.recipe.schema import Recipe
from svc_dist.recipe.writing.json_schema import modeline, recipe_schema, render

ROOT = Path(__file__).parent.parent.parent.parent
SCHEMA = recipe_schema()
VALIDATOR = Draft7Validator(SCHEMA)
MODELS = "base_model: base\nmodels: [{model: one}, {model: two}]\n"


def data(text: str) -> Any:
    return yaml.safe_load(text)


def test_the_package_holds_the_schema_of_this_code() -> None:
    file = Path(modeline().partition("$schema=")[2])
    assert file.read_text(encoding="utf-8") == render(), "run: python docs/reference/generate.py"
    Draft7Validator.check_schema(SCHEMA)


def test_every_key_is_in_the_schema() -> None:
    keys = {field.alias or name for name, field in Recipe.model_fields.items()}
    assert set(SCHEMA["properties"]) == keys | {"slices", "modules"}
    for node in SCHEMA["properties"].values():
        assert node["description"]


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda file: str(file.stem))
def test_recipes_of_the_package_are_valid_and_name_the_schema(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    VALIDATOR.validate(data(text))
    line = text.splitlines()[0]
    assert line.startswith("# yaml-language-server: $schema=")
    assert (file.parent / line.partition("$schema=")[2]).resolve() == Path(modeline().partition("$schema=")[2])


@pytest.mark.parametrize("method", METHODS)
def test_each_method_takes_its_parameters_with_their_defaults(method: str) -> None:
    declared = METHODS[method].all_parameters
    given = {one.name: one.default for one in declared if isinstance(one.default, bool | int | float | str)}
    VALIDATOR.validate({**data(MODELS), "merge_method": method, "parameters": given})
    assert not VALIDATOR.is_valid({**data(MODELS), "merge_method": method, "parameters": {"nosuch": 1}})


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_calibrations(calibration: str) -> None:
    listed = [[calibration], [calibration, {"method": calibration}]]
    for given in (calibration, {"method": calibration}, {"method": "none"}, "none", *listed):
        VALIDATOR.validate({**data(MODELS), "merge_method": "linear", "calibrate": given})
    for wrong in ("nosuch", ["nosuch"], [calibration, "none"], []):
        assert not VALIDATOR.is_valid({**data(MODELS), "merge_method": "linear", "calibrate": wrong})


@pytest.mark.parametrize(
    "keys",
    [
        "merge_method: ties\nparameters: {density: [0.1, 0.5], weight: {filter: mlp, value: 0.5}, normalize: 1.0}",
        "merge_method: slerp\nparameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}",
        "merge_method: linear\nparameters:\ndtype: bfloat16\nrules: [{match: '*.norm', keep: base}]",
        "preset: svc-paper\nfallback: {method: linear, parameters: {weight: 0.5}}",
        "merge_method: linear\nrename: {from: a, to: b}\nmax_shard_size: 5GB\ntokenizer: {source: base}",
        "merge_method: linear\nrules: [{match: '*', merge_method: ties, parameters: {density: 0.5}}]",
        "merge_method: linear\nrules: [{kind: mtp, keep: none}, {kind: [router, shared_experts], keep: base}]",
        "merge_method: ties\nonly_where: {relative_difference: 0.1}\nrules: [{match: a, only_where: none}]",
        "merge_method: linear\nrules: [{match: a, models: one}, {match: b, models: [base, {model: one}]}]",
        "merge_method: linear\nevaluate: score {output}\nsearch: {lambda: [0, 1], density: {grid: [0.5]}}",
        "merge_method: linear\nevaluate: ['score {output}', {command: 'b {output}', name: b, timeout: 3}]",
    ],
)
def test_what_recipes_may_say(keys: str) -> None:
    VALIDATOR.validate(data(MODELS + keys))


@pytest.mark.parametrize(
    "keys",
    [
        "merge_method: tis",
        "merge_method: linear\ndype: bfloat16",
        "merge_method: linear\ndtype: float31",
        "merge_method: ties\nparameters: {density: 1.5}",
        "merge_method: ties\nparameters: {densty: 0.5}",
        "merge_method: linear\nrules: [{keep: base}]",
        "merge_method: linear\nrules: [{kind: experts, keep: base}]",
        "merge_method: linear\nonly_where: {}",
        "merge_method: linear\nonly_where: {relative_difference: -1}",
        "merge_method: linear\nrules: [{match: '*', merge_method: ties, parameters: {t: 0.5}}]",
        "merge_method: linear\nevaluate: {name: b}",
        "merge_method: linear\nsearch: {lambda: {rang: [0, 1]}}",
        "preset: svc-papr",
        "dtype: bfloat16",
    ],
)
def test_what_recipes_may_not_say(keys: str) -> None:
    assert not VALIDATOR.is_valid(data(MODELS + keys))


def test_mergekits_slices_and_modules() -> None:
    slices = "slices: [{sources: [{model: a, layer_range: [0, 8], parameters: {weight: 0.5}}]}]"
    VALIDATOR.validate(data(f"merge_method: linear\n{slices}"))
    VALIDATOR.validate(data(f"merge_method: linear\nmodules: {{default: {{{slices}}}}}"))
    assert not VALIDATOR.is_valid(data(f"merge_method: slerp\n{slices}"))
    assert not VALIDATOR.is_valid(data("merge_method: linear\nslices: [{sources: [{model: a}]}]"))


@pytest.mark.parametrize("outputs", ["{lambda: [0.3, 1]}", "[{path: a, lambda: 1}, {grid: {calibrate.alpha: [1]}}]"])
def test_grids(outputs: str) -> None:
    VALIDATOR.validate({**data(MODELS), "merge_method": "ties", "outputs": data(outputs)})
    assert not VALIDATOR.is_valid({**data(MODELS), "merge_method": "ties", "outputs": [{"grid": [1]}]})
