"""Keys by which a config says that its model is quantised are found, and dropped, in every section."""

from __future__ import annotations

from svc_dist.checkpoint.formats.declarations import declarations, without_declarations

SAYS = {"quant_method": "fp8"}


def test_other_keys_of_such_names_say_nothing() -> None:
    config = {"quantization_config": None, "quantization": "none", "vector_quantization_dim": 4, "expert_dtype": "fp4"}
    assert declarations(config) == ()
    assert without_declarations(config) == config
    assert declarations(None) == ()


def test_every_key_is_dropped_and_the_rest_stays() -> None:
    config = {
        "quantization_config": SAYS, "expert_dtype": "fp4", "hidden_size": 8,
        "text_config": {"quantization_config": SAYS, "heads": 2, "rope": {"theta": 1}}, "vision_config": {"depth": 3},
    }  # fmt: skip
    assert declarations(config) == ("quantization_config", "text_config.quantization_config")
    assert without_declarations(config) == {
        "hidden_size": 8, "text_config": {"heads": 2, "rope": {"theta": 1}}, "vision_config": {"depth": 3},
    }  # fmt: skip
