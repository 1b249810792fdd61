"""mergekit's slices and modules as models and rules; see also svc_dist.recipe.mergekit.sliced."""

from __future__ import annotations

import pytest
import yaml

from svc_dist.recipe.choices import MergeChoice
from svc_dist.recipe.load import parse_recipe
from svc_dist.recipe.mergekit.slices import stacked, without_slices
from svc_dist.recipe.origin import UNNAMED
from svc_dist.tensor_names import LayerRange
from tests.support.recipes import refused, resolved

GRADIENT = """\
slices:
  - sources:
      - {model: one, layer_range: [0, 32]}
      - {model: two, layer_range: [0, 32]}
merge_method: slerp
base_model: one
parameters:
  t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]
"""
STACKED = """\
merge_method: passthrough
slices:
  - sources: [{model: one, layer_range: [0, 24]}]
  - sources: [{model: two, layer_range: [8, 32], parameters: {scale: [{filter: o_proj, value: 0.5}, {value: 1.0}]}}]
"""


def test_one_slice_of_whole_models_is_a_recipe_of_models() -> None:
    data, _, warnings = without_slices(yaml.safe_load(GRADIENT), UNNAMED)
    assert warnings == []
    assert "rules" not in data
    assert [entry["model"] for entry in data["models"]] == ["one", "two"]
    recipe = resolved(GRADIENT)
    assert [model.layers for model in recipe.models] == [LayerRange(0, 32, 0)] * 2
    assert recipe.results[0].default.method == "slerp"


def test_layers_are_stacked_by_rules_over_views_of_models() -> None:
    recipe = resolved(STACKED)
    assert [(model.location, model.layers) for model in recipe.models] == [
        ("/recipes/one", LayerRange(0, 24, 0)),
        ("/recipes/two", LayerRange(8, 32, 24)),
    ]
    first, second, before, rest = recipe.rules
    assert (first.layer_range, second.layer_range) == ((0, 24), (24, 48))
    assert [choice.models for choice in recipe.results[0].merges[1:]] == [(0, 0), (1, 1), (0, 0), (1, 1)]
    assert before.match == ["*embed[!_]*", "*embed_[!o]*", "*wte.*", "*wpe.*", "shared.weight", "*.shared.weight"]
    assert rest.match == ["*"]


def test_the_same_layers_twice_are_two_views_and_models_have_one_for_each_place() -> None:
    text = "merge_method: passthrough\nslices:\n" + "".join(
        f"  - sources: [{{model: one, layer_range: [{first}, {first + 4}]}}]\n" for first in (0, 0, 2)
    )
    layers = [model.layers for model in resolved(text).models]
    assert layers == [LayerRange(0, 4, 0), LayerRange(0, 4, 4), LayerRange(2, 6, 8)]


def test_messages_name_the_keys_of_the_slices() -> None:
    message = refused(STACKED.replace("value: 1.0", "value: high"))
    assert message.startswith("r.yaml:4 (slices[1].sources[0].parameters.scale): passthrough: scale is 'high'")
    assert "r.yaml:2 (slices[0].sources[0].layer_range): [3, 3] is no range" in refused(
        "merge_method: linear\nslices: [{sources: [{model: one, layer_range: [3, 3]}]}]"
    )


def test_parameters_of_a_slice_come_before_the_recipes_and_after_the_sources() -> None:
    text = """\
merge_method: linear
parameters: {weight: 0.1}
slices:
  - sources: [{model: one, layer_range: [0, 2], parameters: {weight: 0.9}}, {model: two, layer_range: [0, 2]}]
    parameters: {weight: [{filter: mlp, value: 0.7}]}
  - sources: [{model: one, layer_range: [2, 4]}, {model: two, layer_range: [2, 4]}]
"""
    first, second, *_ = resolved(text).results[0].rules
    assert isinstance(first, MergeChoice)
    assert isinstance(second, MergeChoice)
    assert first.at("model.layers.0.mlp.up_proj.weight", 0.0)["weight"] == [0.7]
    assert first.at("model.norm.weight", 0.0)["weight"] == [0.1]
    assert first.parameters["base_weight"] == 0.9
    assert second.parameters["weight"] == [0.1]


def test_conditions_of_one_place_are_followed_by_those_of_the_next() -> None:
    mlp = {"filter": "mlp", "value": 1}
    assert stacked({"a": [mlp]}, {"a": 0.5}, {"b": 2}) == {"a": [mlp, {"value": 0.5}], "b": 2}
    assert stacked({"a": mlp}, {"a": [{"value": 3}]}) == {"a": [mlp, {"value": 3}]}
    assert stacked({"a": [mlp, {"value": 0}]}, {"a": 0.5}) == {"a": [mlp, {"value": 0}]}
    assert stacked({"a": [0, 1]}, {"a": 0.5}) == {"a": [0, 1]}


def test_a_base_that_is_no_source_is_the_base_of_changes_and_a_warning_says_so() -> None:
    text = GRADIENT.replace("slerp", "ties").replace("base_model: one", "base_model: base").partition("parameters")[0]
    recipe = resolved(text)
    assert [(model.location, model.layers) for model in recipe.models[:1]] == [("/recipes/base", LayerRange(0, 32, 0))]
    assert len(recipe.models) == 3
    assert "the base base is not among the sources, which mergekit refuses" in recipe.warnings[0]
    assert "slerp merges one model with the base" in refused(text.replace("ties", "slerp"))


def test_a_base_has_no_part_in_an_average_that_does_not_name_it() -> None:
    text = "base_model: base\n" + STACKED
    recipe = resolved(text)
    assert [model.layers for model in recipe.models] == [
        LayerRange(0, 0, 0), LayerRange(0, 24, 0), LayerRange(8, 32, 24),
    ]  # fmt: skip
    assert recipe.results[0].default.models == (2, 2)


@pytest.mark.parametrize("module", ["default", "text_decoder"])
def test_the_module_of_a_whole_model_is_the_recipe(module: str) -> None:
    text = GRADIENT.replace("slices:", f"modules:\n  {module}:\n   slices:").replace("\n  - ", "\n   - ")
    text = text.replace("merge_method", "\nmerge_method", 1)
    data = yaml.safe_load(GRADIENT)
    slices = data.pop("slices")
    text = yaml.safe_dump({**data, "modules": {module: {"slices": slices}}})
    recipe = parse_recipe(text, "r.yaml", "/recipes")
    assert [model.location for model in recipe.models] == ["/recipes/one", "/recipes/two"]


def test_modules_are_rules_for_their_tensors() -> None:
    text = """\
merge_method: linear
parameters: {weight: 1.0}
modules:
  text_decoder:
    models: [{model: one}, {model: two}]
  vision_tower:
    models: [{model: one}]
    parameters: {weight: 2.0}
"""
    recipe = resolved(text.replace("models: [{model: one}]", "models: [{model: two}, {model: one}]"))
    tower, rest = recipe.rules[-2:]
    assert "*visual.*" in tower.match
    assert rest.match == ["*"]
    assert [choice.models for choice in recipe.results[0].merges[-2:]] == [(1, 0), (0, 1)]
