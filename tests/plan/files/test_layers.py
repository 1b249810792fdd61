"""The result's config follows the layers that it has: their number, lists of them, and kinds that numbers imply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from svc_dist.errors import Warned
from svc_dist.plan.files.layers import with_values
from svc_dist.plan.make import make_plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import recipe_from
from tests.support.checkpoints import write_checkpoint

#: Layers 0 to 3 of a, and 2 to 5 of b.
SLICES = [("a", 0, 4), ("b", 2, 6)]


def planned(folder: Path, config: dict[str, Any], slices: Any = SLICES, **of_b: Any) -> tuple[Any, tuple[Warned, ...]]:
    """The values that the result's config gets, and warnings. ``of_b``: other keys of the second model's config."""
    for name, more in (("a", {}), ("b", of_b)):
        tensors = {f"model.layers.{n}.mlp.up_proj.weight": torch.zeros(4, 4) for n in range(6)}
        tensors |= {"model.embed_tokens.weight": torch.zeros(4, 4), "model.norm.weight": torch.zeros(4)}
        write_checkpoint(folder / name, tensors, config={**config, **more})
    recipe = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": str(folder / name), "layer_range": [first, last]}]} for name, first, last in slices
        ],
    }
    plan = make_plan(recipe_from(recipe), Settings())
    (sidecar,) = [one for one in plan.sidecars if one.name == "config.json"]
    return sidecar.values, plan.warnings


def test_the_number_of_layers_has_the_name_that_the_family_gives_it(tmp_path: Path) -> None:
    assert planned(tmp_path, {"num_hidden_layers": 6})[0] == {"num_hidden_layers": 8}
    assert planned(tmp_path, {"n_layer": 6})[0] == {"n_layer": 8}
    both = {"num_hidden_layers": 6, "text_config": {"num_hidden_layers": 6, "x": 6}}
    assert planned(tmp_path, both)[0] == {"num_hidden_layers": 8, "text_config.num_hidden_layers": 8}


def test_lists_of_layers_have_the_values_of_the_layers_that_are_taken(tmp_path: Path) -> None:
    kinds = ["s", "f", "s", "f", "s", "s"]
    config = {
        "num_hidden_layers": 6,
        "layer_types": kinds,
        "hybrid_override_pattern": "M-M*-M",
        "eos_token_id": [0] * 6,
    }
    values, warnings = planned(tmp_path, config, layer_types=["x"] * 6)
    assert values == {
        "num_hidden_layers": 8,
        "layer_types": ["s", "f", "s", "f", "x", "x", "x", "x"],
        "hybrid_override_pattern": "M-M*M*-M",
    }
    assert warnings == ()


def test_lists_of_numbers_of_layers_are_numbered_anew(tmp_path: Path) -> None:
    linear = {"kda_layers": [1, 2, 4], "x": 1}  # from 1
    config = {"num_hidden_layers": 6, "mlp_only_layers": [0, 3], "linear_attn_config": linear}
    values, _ = planned(tmp_path, config)
    assert values["mlp_only_layers"] == [0, 3, 5]
    assert values["linear_attn_config"] == {"kda_layers": [1, 2, 4, 6], "x": 1}
    assert planned(tmp_path, {"num_hidden_layers": 6, "mlp_only_layers": []})[0] == {"num_hidden_layers": 8}


@pytest.mark.parametrize(
    ("config", "types"),
    [
        ({"model_type": "gemma2"}, None),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 3}, "ssfsfssf"),
        ({"model_type": "cohere2"}, "sssfsfss"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}, "fffsfsss"),
        ({"model_type": "qwen2", "use_sliding_window": False, "max_window_layers": 3}, None),
    ],
)
def test_kinds_that_follow_from_numbers_are_listed_where_numbers_change(
    tmp_path: Path, config: dict[str, Any], types: str | None
) -> None:
    values, warnings = planned(tmp_path, {"num_hidden_layers": 6, **config})
    names = {"s": "sliding_attention", "f": "full_attention"}
    expected = {} if types is None else {"layer_types": [names[letter] for letter in types]}
    assert values == {"num_hidden_layers": 8} | expected
    assert warnings == ()


def test_the_first_dense_layers_are_counted(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 6, "first_k_dense_replace": 2}
    assert planned(tmp_path, config)[0] == {"num_hidden_layers": 8}
    values, _ = planned(tmp_path, config, [("a", 0, 2), ("b", 0, 6)])
    assert values == {"num_hidden_layers": 8, "first_k_dense_replace": 4}
    _, (warning,) = planned(tmp_path, config, [("a", 0, 4), ("b", 0, 4)])
    assert "first_k_dense_replace: the first layers are of another kind, and the result has such layers" in warning


def test_what_no_key_can_say_is_a_warning(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 6, "attn_layer_period": 4}
    assert planned(tmp_path, config)[1] != ()
    assert planned(tmp_path, config, [("a", 0, 4), ("b", 0, 4)])[1] == ()
    _, (warning,) = planned(tmp_path, {"num_hidden_layers": 6, "unheard_of": [1, 2, 3, 4, 5, 6]})
    assert "unheard_of: has as many values as there are layers" in warning


def test_layers_with_their_own_numbers_change_nothing(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 6, "layer_types": ["s", "f"] * 3, "attn_layer_period": 4}
    assert planned(tmp_path, config, [("a", 0, 4), ("b", 4, 6)]) == ({}, ())


def test_models_of_other_depths_do_not_compute_differently(tmp_path: Path) -> None:
    assert planned(tmp_path, {"num_hidden_layers": 6}, num_hidden_layers=6, layer_types=["s"] * 6)[1] == ()


def test_values_are_set_in_sections() -> None:
    config = {"a": 1, "text_config": {"b": 2, "c": 3}}
    changed = with_values(config, {"a": 5, "text_config.b": [6]})
    assert json.dumps(changed) == '{"a": 5, "text_config": {"b": [6], "c": 3}}'
    assert config["a"] == 1
