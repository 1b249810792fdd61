"""What mergekit ignores is left out, and named in one warning for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from svc_dist.recipe.mergekit.ignored import without_ignored
from svc_dist.recipe.origin import Origin
from svc_dist.recipe.yaml_lines import read_yaml
from tests.support.recipes import refused, resolved

TIES = """\
merge_method: ties
base_model: base
models:
  - {model: one, parameters: {weight: 1}}
  - {model: two, parameters: {weight: 1}}
"""


def warned(text: str) -> Sequence[str]:
    return resolved(text).warnings


def cleaned(text: str) -> dict[str, Any]:
    data, lines = read_yaml(text, "r.yaml")
    return without_ignored(data, Origin("r.yaml", lines))[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "name: x\ndescription: y\nlicense: z",
            "r.yaml:6 (name): mergekit ignores 'name', 'description' and 'license', and so does svc_dist [key-ignored]",
        ),
        (
            "output_dir: out",
            "r.yaml:6 (output_dir): mergekit ignores 'output_dir' here, and so does svc_dist; the command line names "
            "the output [key-ignored]",
        ),
        (
            "output: ./merged",
            "r.yaml:6 (output): mergekit ignores 'output' here, and so does svc_dist; the command line names the "
            "output [key-ignored]",
        ),
        (
            "input_model_parameters: {}",
            "r.yaml:6 (input_model_parameters): mergekit ignores 'input_model_parameters' here, and so does svc_dist; "
            "parameters of a model belong to its entry under `models` [key-ignored]",
        ),
        (
            "density: 0.5",
            "r.yaml:6 (density): mergekit ignores 'density' here, and so does svc_dist; it is a parameter: to give it "
            "effect, write it under `parameters` [key-ignored]",
        ),
        (
            "select_topk: 0.5",
            "r.yaml:6 (select_topk): mergekit ignores 'select_topk', and so does svc_dist [key-ignored]",
        ),
        (
            "dype: bfloat16",
            "r.yaml:6 (dype): 'dype' is probably a typo of 'dtype': mergekit ignores it, and so does svc_dist [typo]",
        ),
        (
            "parameters: {lamda: 0.5}",
            "r.yaml:6 (parameters.lamda): 'lamda' is probably a typo of 'lambda': mergekit ignores it, and so does "
            "svc_dist [typo]",
        ),
        (
            "parameters: {dtype: bfloat16}",
            "r.yaml:6 (parameters.dtype): ties takes no 'dtype': mergekit ignores it, and so does svc_dist; it is a "
            "key of the recipe, not a parameter: write it at the top level [parameter-ignored]",
        ),
        (
            "parameters: {density: [{filter: mlp, value: 1, note: x}, {value: 1}]}",
            "r.yaml:6 (parameters.density[0].note): mergekit ignores 'note', and so does svc_dist [key-ignored]",
        ),
        (
            "tokenizer: {source: base, add_bos: true}",
            "r.yaml:6 (tokenizer.add_bos): mergekit ignores 'add_bos', and so does svc_dist [key-ignored]",
        ),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_named(line: str, said: str) -> None:
    assert warned(TIES + line) == (said,)
    if not line.startswith(("tokenizer", "parameters: {density")):
        assert resolved(TIES + line).plain == resolved(TIES).plain


def test_a_key_under_models_is_named_once_with_the_number_of_models() -> None:
    text = TIES.replace("weight: 1}}", "weight: 1, lambda: 0.5}, revision: main}")
    assert warned(text) == (
        "r.yaml:4 (models[0].revision) and 1 more: mergekit ignores 'revision' here, and so does svc_dist; for a "
        "revision, write `model: OWNER/NAME@REVISION` [key-ignored]",
        "r.yaml:4 (models[0].parameters.lambda) and 1 more: ties has one 'lambda' for all models: mergekit ignores it "
        "here, and so does svc_dist; write it under the top-level parameters [parameter-misplaced]",
    )
    assert warned(text.replace(", revision: main", "") + "parameters: {lambda: 0.5}") == ()


@pytest.mark.parametrize(
    "line",
    [
        "chat_template: ''\nslices: []\nmodules: {}",
        "dtype: null\nparameters: null\nslices: null\nchat_template: null\ntokenizer: null",
        "parameters: {int8_mask: true}",
        "parameters: {int8_mask: 1.0}",
    ],
)
def test_what_says_nothing_needs_no_warning(line: str) -> None:
    assert warned(TIES + line) == ()
    assert resolved(TIES + line).plain == resolved(TIES).plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TIES + "rule: []", "r.yaml:6 (rule): unknown key 'rule'; did you mean 'rules'?"),
        (TIES + "untie: true\ndype: float16", "r.yaml:7 (dype): unknown key 'dype'; did you mean 'dtype'?"),
        (TIES.replace("two, parameters: {weight", "two, parameters: {wieght"), "'wieght'\n  did you mean 'weight'?"),
        (TIES.replace("base_model", "base-model"), "unknown key 'base-model'; did you mean 'base_model'?"),
        (TIES.replace("two, parameters:", "two, parameter:"), "unknown key 'parameter'; did you mean 'parameters'?"),
        (
            TIES.replace("two, parameters: {weight: 1}", "two, weight: 1"),
            "r.yaml:5 (models[1].weight): 'weight' is a parameter, not a key\n  write parameters: {weight: ...}",
        ),
        (
            TIES.replace("weight", "density") + "weight: 1",
            "r.yaml:6 (weight): 'weight' is a parameter, not a key\n  write parameters: {weight: ...}",
        ),
        (
            "merge_method: slerp\nbase_model: base\nmodels: [{model: one, parameters: {t: 0.5}}]",
            "r.yaml:3 (models[0].parameters.t): 't' is one value for all experts\n  put it under the top-level",
        ),
        (
            TIES + "parameters: {dare: {drop_rate: 0.9}}",
            "r.yaml:6 (parameters.dare): ties takes no 'dare', and mergekit stops at {'drop_rate': 0.9}",
        ),
        (TIES.replace("method: ties", "method: tsv_m").replace("weight: 1", "") + "name: x", "unknown key 'name'"),
    ],
)  # fmt: skip
def test_what_mergekit_stops_at_and_what_is_svc_dists_is_an_error(text: str, words: str) -> None:
    assert words in refused(text)


def test_a_base_without_part_in_the_merge_needs_no_parameters() -> None:
    text = TIES + "  - {model: base, weight: 3, parameters: {wieght: 1, lambda: 3}}"
    assert [w.partition(": ")[0] for w in warned(text)] == ["r.yaml:6 (models[2].weight)"]
    (warning,) = warned(TIES + "  - {model: base, parameters: {weight: 1, lambda: 3}}")
    assert warning == "r.yaml:6 (models[2].parameters): has no effect: this model is the base [no-effect]"


@pytest.mark.parametrize(("method", "draws"), [("dare_ties", True), ("ties", False)])
def test_a_seed_is_told_its_place_where_the_method_draws(method: str, draws: bool) -> None:
    (warning,) = warned(TIES.replace("ties", method) + "random_seed: 3")
    assert ("`parameters: {seed: 1}`" in warning) == draws


def test_slices_and_modules_are_cleaned() -> None:
    text = """\
merge_method: slerp
base_model: {model: {path: base, revision: null}, lora: null}
modules:
  default:
    name: x
    slices:
      - merge_method: slerp
        residual_weight: 0.1
        sources:
          - {model: {model: one}, layer_range: [0, 2], parameters: {weight: 1}}
          - {model: base, layer_range: [0, 2], parameters: {weight: 1}}
        parameters: {t: 0.5, embed_slerp: true}
slices: null
models: null
"""
    data, lines = read_yaml(text, "r.yaml")
    found, warnings = without_ignored(data, Origin("r.yaml", lines))
    assert found == {
        "merge_method": "slerp",
        "base_model": "base",
        "modules": {
            "default": {
                "slices": [
                    {
                        "sources": [
                            {"model": "one", "layer_range": [0, 2], "parameters": {}},
                            {"model": "base", "layer_range": [0, 2], "parameters": {}},
                        ],
                        "parameters": {"t": 0.5},
                    }
                ]
            }
        },
    }
    assert [w.partition(": ")[0] for w in warnings] == [
        "r.yaml:5 (modules.default.name) and 1 more",
        "r.yaml:7 (modules.default.slices[0].merge_method)",
        "r.yaml:12 (modules.default.slices[0].parameters.embed_slerp) and 1 more",
    ]


def test_recipes_of_svc_dists_methods_are_left_as_they_are() -> None:
    data = yaml.safe_load(TIES.replace("ties", "tsv_m")) | {"zzz": 1}
    assert without_ignored(data, Origin()) == (data, ())
