"""Every known format is recognised by its tensors, and ordinary weights are not taken for one."""

from __future__ import annotations

import pytest

from svc_dist.checkpoint.formats.base import Format
from svc_dist.checkpoint.formats.declarations import declarations
from svc_dist.checkpoint.formats.refused import OTHER_FLOATS, UNKNOWN
from svc_dist.checkpoint.formats.table import FORMATS, quantised_tensors
from svc_dist.checkpoint.header import TensorSpec


def specs(**tensors: str) -> dict[str, TensorSpec]:
    """Tensors by name, ``__`` for a dot, each of the dtype given; their shapes do not matter here."""
    names = {name.replace("__", "."): dtype for name, dtype in tensors.items()}
    return {name: TensorSpec(name, dtype, (4, 4), "model.safetensors", 0, 16) for name, dtype in names.items()}


EXAMPLES = {
    "FP8 in blocks": specs(m__weight="F8_E4M3", m__weight_scale_inv="F32"),
    "FP8 with scales": specs(m__weight="F8_E4M3", m__weight_scale="BF16", m__input_scale="F32"),
    "FP8 of Mistral": specs(m__weight="F8_E4M3", m__qscale_weight="F32", m__qscale_act="F32"),
    "FP8 in blocks, fused experts": specs(m__gate_up_proj="F8_E4M3", m__gate_up_proj_scale_inv="F32"),
    "FP8 with scales, fused experts": specs(m__down_proj="F8_E4M3", m__down_proj_scale="F32"),
    "FP8 in blocks of DeepSeek-V4": specs(m__weight="F8_E4M3", m__scale="F8_E8M0"),
    "MXFP4 of DeepSeek-V4": specs(m__weight="I8", m__scale="F8_E8M0"),
    "MXFP8": specs(m__weight="F8_E4M3", m__weight_scale="U8"),
    "MXFP4 of gpt-oss": specs(m__down_proj_blocks="U8", m__down_proj_scales="U8"),
    "MXFP4": specs(m__weight_packed="U8", m__weight_scale="U8"),
    "NVFP4": specs(m__weight="U8", m__weight_scale="F8_E4M3", m__weight_scale_2="F32", m__input_scale="F32"),
    "packed integers of compressed-tensors": specs(
        m__weight_packed="I32", m__weight_scale="BF16", m__weight_shape="I64"
    ),
    "INT8 with scales": specs(m__weight="I8", m__weight_scale="F32"),
    "GPTQ": specs(m__qweight="I32", m__scales="F16", m__g_idx="I32", m__qzeros="I32"),
    "AWQ": specs(m__qweight="I32", m__scales="F16", m__qzeros="I32"),
    "GPTQ or AWQ": specs(m__qweight="I32", m__scales="F16"),
    "EETQ": specs(m__weight="I8", m__weight_scales="F16"),
    "bitsandbytes, 4 bits": specs(m__weight="U8", m__weight__absmax="F32", m__weight__quant_map="F32"),
    "bitsandbytes, 8 bits": specs(m__weight="I8", m__SCB="F32"),
    "MLX": specs(m__weight="U32", m__scales="BF16", m__biases="BF16"),
    "HQQ": specs(m__W_q="U8", m__scale="F16", m__zero="F16", m__nbits="I32"),
    "quanto": specs(m___data="I8", m___scale="BF16"),
    "Marlin": specs(m__B="I32", m__s="F16", m__workspace="I32"),
    "AQLM": specs(m__codes="I16", m__codebooks="F16", m__scales="F16"),
    "EXL2": specs(m__q_weight="I32", m__q_scale="I32", m__q_scale_max="F16", m__q_groups="I16", m__q_invperm="I32"),
    "EXL3": specs(m__trellis="I16", m__suh="F16", m__svh="F16"),
    "BitNet": specs(m__weight="U8", m__weight_scale="BF16"),
}


def test_every_format_of_the_table_has_an_example() -> None:
    assert {candidate.name for candidate in FORMATS} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("config", [None, {"quantization_config": {"quant_method": "fp8"}}])
def test_codes_and_companions_are_recognised_by_tensors_alone(name: str, config: dict[str, object] | None) -> None:
    tensors = EXAMPLES[name] | specs(norm__weight="BF16", other__weight="F32")
    codes, companions = quantised_tensors(tensors, config)
    assert [found.name for found in codes.values()] == [name]
    assert {*codes, *companions} == set(EXAMPLES[name])
    assert set(companions.values()) == set(codes)


ORDINARY = specs(
    a__q_norm__scale="BF16", a__hc_attn_scale="F32", logit_scale="F32", b__weight="BF16", b__weight_scale="F32",
    c__position_ids="I64", d__mask="BOOL", e__weight="U8", f__num_batches_tracked="I64", g__scales="F16",
)  # fmt: skip


def test_ordinary_tensors_are_not_quantised() -> None:
    assert quantised_tensors(ORDINARY, None) == ({}, {})


#: Buffers of whole numbers, and scales, in modules that are not quantised: Swin v2, GPT-2, BatchNorm, Mamba.
MODULES = specs(
    a__logit_scale="F32", a__relative_position_index="I64", b__bias="U8", b__masked_bias="F32", b__c_attn__weight="F32",
    c__weight="F32", c__running_var="F32", c__num_batches_tracked="I64", d__scale="F32", d__mask="BOOL", d__D="F32",
)  # fmt: skip


def test_buffers_beside_scales_are_not_quantised() -> None:
    assert quantised_tensors(MODULES, None) == ({}, {})


@pytest.mark.parametrize(
    "tensors",
    [
        specs(m___weight_qdata="I8", m___weight_scale="F32", m__bias="F32"),  # torchao
        specs(m__int_weight="I32", m__absmax="F16"),
        specs(m__qweight="I32"),
        specs(m__weight_quantized="U8"),
        specs(m__weight="U8", m__qscale_weight="F32", m__weight_zero_point="U8", m__scales="F32"),
    ],
)
def test_whole_numbers_beside_a_scale_are_codes_of_an_unknown_format(tensors: dict[str, TensorSpec]) -> None:
    codes, companions = quantised_tensors(tensors, None)
    assert all(found is UNKNOWN for found in codes.values())
    assert {*codes, *companions} >= {name for name in tensors if not name.endswith("bias")}


def test_packed_quanto_is_recognised_through_its_nested_names() -> None:
    tensors = specs(m__weight___data___data="U8", m__weight___scale="F16", m__weight___shift="F16")
    codes, companions = quantised_tensors(tensors, None)
    assert [found.name for found in codes.values()] == ["quanto"]
    assert len(companions) == 2


def test_mlx_s_mxfp4_has_scales_of_bytes() -> None:
    codes, _ = quantised_tensors(specs(m__weight="U32", m__scales="U8"), None)
    assert [found.name for found in codes.values()] == ["MLX"]


PLACES: dict[str, dict[str, object]] = {
    "quantization_config": {"quantization_config": {"quant_method": "gptq"}},
    "text_config.quantization_config": {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
    "thinker_config.text_config.quantization_config": {
        "thinker_config": {"text_config": {"quantization_config": {"quant_method": "fp8"}}}
    },
    "compression_config": {"compression_config": {"format": "pack-quantized"}},
    "quantization": {"quantization": {"group_size": 64, "bits": 4}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_config_says_quantised_in_any_of_its_places(place: str) -> None:
    assert declarations(PLACES[place]) == (place,)
    ((name, found),) = quantised_tensors(specs(a__weight="I16"), PLACES[place])[0].items()
    assert (name, found.codec) == ("a.weight", None)


def test_a_file_beside_the_config_says_quantised() -> None:
    assert quantised_tensors(specs(a__weight="I16"), None, declared=True)[0] == {"a.weight": UNKNOWN}
    assert quantised_tensors(specs(a__weight="I16"), None)[0] == {}


def test_narrow_floats_without_scales_are_of_an_unknown_format() -> None:
    codes, companions = quantised_tensors(specs(a__weight="F8_E5M2", a__amax="F32", b__weight="BF16"), None)
    assert codes == {"a.weight": OTHER_FLOATS}
    assert companions == {"a.amax": "a.weight"}


def test_what_is_no_float_under_a_config_that_says_quantised_is_of_an_unknown_format() -> None:
    codes, _ = quantised_tensors(specs(a__weight="I16", b__mask="BOOL"), {"quantization_config": {}})
    assert codes == {"a.weight": UNKNOWN}


def test_a_suffix_counts_as_a_whole() -> None:
    pattern = Format("test", ".codes", ("U8",), {".steps": ("F32",)})
    tensors = specs(a__codes="U8", a__steps="F32", b__codes="U8", b__steps="F16")
    assert pattern.recognise(tensors["a.codes"], tensors) == ("a.steps",)
    assert pattern.recognise(tensors["b.codes"], tensors) is None


def test_indices_are_no_codes_but_of_a_tool_that_is_not_known() -> None:
    tensors = specs(gate__tid2eid="I64")
    assert quantised_tensors(tensors, {"quantization_config": {"quant_method": "fp8"}})[0] == {}
    assert list(quantised_tensors(tensors, {"quantization_config": {"quant_method": "vptq"}})[0]) == ["gate.tid2eid"]
