"""``adapter_config.json``: the scale of each module's pair, and the keys that make an adapter no plain LoRA."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from svc_dist.checkpoint.adapters.config import AdapterConfig, parse_adapter_config
from svc_dist.errors import DamagedInputError


def parsed(**keys: Any) -> AdapterConfig:
    data = {"peft_type": "LORA", "r": 8, "lora_alpha": 16} | keys
    return parse_adapter_config(json.dumps(data).encode(), "adapter_config.json")


def test_the_scale_is_alpha_over_the_rank_or_over_its_root() -> None:
    assert parsed().scale("model.layers.0.self_attn.q_proj") == (8, 2.0)
    assert parsed(use_rslora=True).scale("model.layers.0.self_attn.q_proj") == (8, 16 / math.sqrt(8))


def test_patterns_give_modules_a_rank_and_an_alpha_of_their_own() -> None:
    config = parsed(
        rank_pattern={"q_proj": 4, r"layers\.1\.mlp\.up_proj": 32}, alpha_pattern={"up_proj": 64, "layers.1.mlp.up": 1}
    )
    assert config.scale("model.layers.0.self_attn.q_proj") == (4, 4.0)
    assert config.scale("model.layers.1.mlp.up_proj") == (32, 2.0)
    assert config.scale("model.layers.0.mlp.up_proj") == (8, 8.0)
    assert config.scale("model.layers.0.self_attn.not_q_proj") == (8, 2.0)


def test_the_first_pattern_that_matches_decides() -> None:
    assert parsed(rank_pattern={"a.q": 2, "q": 4}).scale("x.a.q") == (2, 8.0)
    assert parsed(rank_pattern={"q": 4, "a.q": 2}).scale("x.a.q") == (4, 4.0)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"layer_replication": [[0, 4], [2, 6]]}, "layer_replication is set"),
        ({"new_key_of_peft": 3}, "new_key_of_peft is set"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 0}, "r is 0, but a rank is a whole number above 0"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much', but must be a number"),
        ({"lora_alpha": math.inf}, "lora_alpha is inf"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes', but must be true or false"),
        ({"rank_pattern": [8]}, "rank_pattern is not a mapping"),
        ({"rank_pattern": {"q": 0}}, "rank_pattern, 'q' is 0"),
        ({"rank_pattern": {"(": 4}}, "is not a regular expression"),
        ({"rank_pattern": {"(a+)+b": 4}}, "repeats a group"),
        ({"rank_pattern": {"a*b*c*d*": 4}}, "too intricate"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_its_key(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(DamagedInputError) as caught:
        parsed(**keys)
    assert caught.value.message.startswith("adapter_config.json: ")
    assert said in caught.value.message


def test_keys_that_are_off_or_only_tell_of_the_training_change_nothing() -> None:
    plain = {"use_dora": False, "layer_replication": None, "new_key_of_peft": None, "init_lora_weights": "gaussian"}
    assert parsed(**plain, lora_dropout=0.1, target_modules=["q_proj"], bias="all") == parsed()


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_starts_that_leave_the_base_as_it_is(start: object) -> None:
    assert parsed(init_lora_weights=start).rank == 8


def test_parameters_are_targets_by_their_whole_name_or_its_end() -> None:
    config = parsed(target_parameters=["mlp.experts.down_proj", "gate.weight"], use_dora=False)
    assert config.targets("model.layers.3.mlp.experts.down_proj")
    assert config.targets("gate.weight")
    assert not config.targets("model.layers.3.other_mlp.experts.down_proj")
    assert not config.targets("model.layers.3.mlp.router_gate.weight")


@pytest.mark.parametrize(
    ("written", "version"),
    [(None, (0,)), ("0.18.1", (0, 18)), ("0.19.0.dev0@abc", (0, 19)), ("1.2", (1, 2)), ("unknown", ())],
)
def test_the_version_of_peft(written: str | None, version: tuple[int, ...]) -> None:
    assert parsed(peft_version=written).peft_version == version
