"""What configs declare, in the places and dialects in which public models have it."""

from __future__ import annotations

from svc_dist.checkpoint.formats.scheme import Scheme, Schemes, quantisation_config

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
INT4 = {"num_bits": 4, "type": "int", "group_size": 32, "strategy": "group"}


def test_the_section_is_found_wherever_loaders_look() -> None:
    assert quantisation_config({"quantization_config": FP8, "text_config": {"quantization_config": INT4}}) == FP8
    assert quantisation_config({"text_config": {"quantization_config": FP8}}) == FP8
    assert quantisation_config({"compression_config": INT4}) == INT4
    assert quantisation_config({"quantization_config": None}) == {}
    assert quantisation_config(None) == {}


def test_blocks_and_powers() -> None:
    assert Schemes(FP8).of("m") == Scheme("fp8", (128, 128), True, "ue8m0")
    assert Schemes({"weight_block_size": "none"}).of("m") == Scheme()


def test_the_first_group_that_names_a_module_counts() -> None:
    eight = {**INT4, "num_bits": 8, "group_size": None}
    declared = {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "a": {"targets": ["re:.*experts.*"], "weights": INT4},
            "b": {"targets": ["model.head"], "weights": {"block_structure": [16, 32]}},
            "c": {"targets": ["Linear"], "weights": eight},
        },
    }
    assert Schemes(declared).of("layers.1.experts.0.w1").bits == 4
    assert Schemes(declared).of("model.head").block == (16, 32)
    assert (Schemes(declared).of("layers.1.q_proj").bits, Schemes(declared).of("layers.1.q_proj").group) == (8, None)
    assert Schemes({"config_groups": {"a": {"targets": ["re:("], "weights": INT4}}}).of("m").bits is None
