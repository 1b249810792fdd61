"""A recipe written anew gives the same plan, keeps what its author wrote, and says above each change what changed.

The modules are svc_dist.recipe.writing.fix, svc_dist.recipe.writing.repairs and svc_dist.recipe.writing.whole_slices.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import svc_dist
from svc_dist.errors import PlanError, RecipeError
from svc_dist.plan.model import Plan
from svc_dist.recipe.writing.fix import fix, fixed
from svc_dist.recipe.writing.repairs import with_comment
from tests.support.public_recipes import public_recipes

RECIPE = """\
# my merge
base_model: base   # the base
models:
  - model: m0
    parameters:
      weight: 0.5
      int8_mask: true
  # the second one
  - model: {model: {path: m1, revision: main}}
    parameters: {weight: 0.3, density: 0.5}
merge_method: ties
parameters:
  normalize: 1.0
  int8_mask: true
dtype: bfloat16  # as usual
"""


def body(text: str) -> str:
    """Without the line that names the schema."""
    assert text.startswith("# yaml-language-server: $schema=")
    return text.partition("\n")[2]


def outcome(plan: Plan) -> Plan:
    """A plan without where it comes from."""
    results = tuple(
        replace(result, dispositions=tuple(replace(one, reason="") for one in result.dispositions))
        for result in plan.results
    )
    # A document is identified by its recipe, too, which is written in other words.
    models = tuple(replace(one, files=()) if one.location.startswith("document://") else one for one in plan.models)
    return replace(plan, models=models, documents=(), recipe={}, fingerprint="", warnings=(), results=results)


@pytest.mark.slow
def test_public_recipes_give_the_same_plan(tmp_path: Path) -> None:
    compared = 0
    for recipe in public_recipes():
        file = recipe.models(tmp_path) / f"{recipe.number}.yaml"
        file.write_text(recipe.file.read_text())
        anew = file.with_suffix(".new.yaml")
        done = fix(file)
        anew.write_text(done.text)
        assert done.left_open or fixed(done.text, "anew", anew.parent).text == done.text, recipe.number
        try:
            before = svc_dist.make_plan(file, device="cpu")
        except (RecipeError, PlanError):
            continue
        assert outcome(svc_dist.make_plan(anew, device="cpu")) == outcome(before), recipe.number
        compared += 1
    assert compared > 85


def test_what_an_author_wrote_stays(tmp_path: Path) -> None:
    done = fixed(RECIPE, "recipe.yaml", tmp_path)
    assert (
        body(done.text)
        == """\
# my merge
base_model: base   # the base
models:
  - model: m0
    parameters:
      weight: 0.5
      # fix: removed: it has no effect: masks take no memory in svc_dist
      #     int8_mask: true
  # the second one
  # fix: a model is text here: MODEL@REVISION+ADAPTER
  - model: m1@main
    parameters: {weight: 0.3, density: 0.5}
merge_method: ties
parameters:
  # fix: it was 1.0: this is true or false
  normalize: true
  # fix: removed: it has no effect: masks take no memory in svc_dist
  #     int8_mask: true
dtype: bfloat16  # as usual
"""
    )
    assert len(done.changes) == 4
    assert not done.left_open


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("parameters: {normalize: 0, int8_mask: true}", "parameters: {normalize: false}"),
        ("parameters: {int8_mask: true, lambda: 0.5}", "parameters: {lambda: 0.5}"),
        ("parameters: {int8_mask: true}", ""),
        ("parameters:\n  int8_mask: true\ndtype: float32", "dtype: float32"),
        ("parameters: {normalize: [{filter: mlp, value: 1}, {value: [0, 1.0]}]}",
         "parameters: {normalize: [{filter: mlp, value: true}, {value: [false, true]}]}"),
        ("name: mine\ndtype: float32", "dtype: float32"),
        ("calibrte: svc", "calibrate: svc"),
        ("dype: float32\nvocab: base", "dtype: float32\nvocab: base"),
        ("rules: [{match: '*', parameters: {densty: 0.5}}]", "rules: [{match: '*', parameters: {density: 0.5}}]"),
    ],
)  # fmt: skip
def test_each_kind_of_change(before: str, after: str, tmp_path: Path) -> None:
    head = "base_model: base\nmodels: [{model: m0, parameters: {weight: 1}}]\nmerge_method: ties\n"
    done = fixed(head + before, "r", tmp_path)
    assert yaml.safe_load(done.text) == yaml.safe_load(head + after)
    assert done.text.count("# fix: ") == len(done.changes) > 0


def test_a_typo_that_mergekit_ignores_is_offered_but_has_no_effect(tmp_path: Path) -> None:
    text = "base_model: base\nmodels: [{model: m0, parameters: {weight: 1}}]\nmerge_method: ties\n"
    done = fixed(f"{text}parameters:\n  lamda: 0.5\n", "r", tmp_path)
    assert "parameters" not in yaml.safe_load(done.text)
    assert "# to give it effect, write:\n#     lambda: 0.5\n#     parameters:\n#       lamda: 0.5\n" in done.text


@pytest.mark.parametrize("outer", ["", "modules:\n  default:\n"])
def test_one_slice_of_whole_models(outer: str, tmp_path: Path) -> None:
    indent = "    " if outer else ""
    slices = f"""\
{indent}slices:
{indent}  - sources:
{indent}      - model: base
{indent}        # the expert
{indent}        layer_range: [0, 4]
{indent}      - model: m0
{indent}        layer_range: [0, 4]
"""
    (tmp_path / "m0").mkdir()
    (tmp_path / "m0" / "config.json").write_text('{"num_hidden_layers": 4}')
    done = fixed(f"base_model: base\n{outer}{slices}merge_method: slerp\nparameters: {{t: 0.5}}\n", "r", tmp_path)
    assert yaml.safe_load(done.text)["models"] == [{"model": "base"}, {"model": "m0"}]
    assert "# the expert" in done.text
    assert {"slices", "modules"}.isdisjoint(yaml.safe_load(done.text))


@pytest.mark.parametrize(
    "slices",
    [
        "[{sources: [{model: a, layer_range: [0, 4]}]}, {sources: [{model: a, layer_range: [2, 4]}]}]",
        "[{sources: [{model: a, layer_range: [0, 4]}, {model: base, layer_range: [4, 8]}]}]",
        "[{sources: [{model: a, layer_range: [1, 4]}, {model: base, layer_range: [1, 4]}]}]",
    ],
)
def test_other_slices_stay(slices: str, tmp_path: Path) -> None:
    text = f"base_model: base\nslices: {slices}\nmerge_method: linear\nparameters: {{weight: 1}}\n"
    assert yaml.safe_load(fixed(text, "r", tmp_path).text)["slices"] == yaml.safe_load(slices)


def test_what_the_author_must_decide_is_a_comment_at_its_place(tmp_path: Path) -> None:
    text = "base_model: base\nmodels: [{model: m0}]\nmerge_method: ties\nparameters:\n  density: 60\n"
    done = fixed(text, "r", tmp_path)
    assert done.left_open
    assert (
        "\n  # fix: svc_dist stops here: ties: density is 60, but must be a number at least 0 and at most 1\n"
        in done.text
    )
    assert "#     explain: svc-dist recipe explain value-not-allowed\n  density: 60\n" in done.text
    refused = PlanError("1 tensor cannot be merged", "put first:\n  rules:\n    - keep: base", code="tensors-differ")
    assert with_comment(text, "r", refused).endswith(
        "density: 60\n# fix: svc_dist stops here: 1 tensor cannot be merged\n#       put first:\n#       rules:\n"
        "#         - keep: base\n#     explain: svc-dist recipe explain tensors-differ\n"
    )


def test_documents_keep_their_names(tmp_path: Path) -> None:
    one = "models: [{model: a}, {model: b}]\nmerge_method: linear\nparameters: {weight: 1, int8_mask: true}\n"
    one += "name: first\n"
    done = fixed(f"{one}---\n{one.replace('first', 'second').replace('a}', 'first}')}", "r", tmp_path)
    documents = list(yaml.safe_load_all(done.text))
    assert [document["name"] for document in documents] == ["first", "second"]
    assert all(document["parameters"] == {"weight": 1} for document in documents)
