"""What svc_dist does not decode is refused by name, whatever the tensors look like."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.checkpoint.formats.decoded import decoded
from svc_dist.checkpoint.formats.refused import NO_SCALE, OTHER_FLOATS, UNKNOWN
from svc_dist.checkpoint.formats.table import quantised_tensors
from svc_dist.checkpoint.header import TensorSpec

Tensors = dict[str, tuple[str, tuple[int, ...]]]
NVFP4: Tensors = {
    "m.weight": ("U8", (64, 32)),
    "m.weight_scale": ("F8_E4M3", (64, 4)),
    "m.weight_scale_2": ("F32", ()),
}
FP8: Tensors = {"m.weight": ("F8_E4M3", (64, 64)), "m.weight_scale": ("BF16", (64, 1))}


def specs(tensors: Tensors) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, dtype, shape, "f", 0, 1) for name, (dtype, shape) in tensors.items()}


def declared(**keys: Any) -> dict[str, Any]:
    return {"quantization_config": keys}


@pytest.mark.parametrize(
    ("tensors", "config", "name"),
    [
        ({**NVFP4, "m.pre_quant_scale": ("BF16", (64,))}, declared(quant_method="modelopt"), "pre_quant_scale, AWQ"),
        ({**NVFP4, "m.svdquant_lora_a": ("BF16", (4, 64))}, None, "svdquant_lora_a"),
        (
            {"m.weight_packed": ("I32", (64, 8)), "m.weight_scale": ("BF16", (64, 2)), "m.weight_shape": ("I64", (2,)),
             "m.weight_g_idx": ("I32", (64,))}, None, "weight_g_idx",
        ),
        (FP8, declared(quant_method="compressed-tensors", transform_config={"config_groups": {"u": {}}}), "rotated"),
        (FP8, {"text_config": declared(quant_method="quark")}, "by quark"),
        (FP8, {**declared(quant_method="fp8"), "compression_config": {"quant_method": "awq"}}, "by awq"),
    ],
)  # fmt: skip
def test_variants_of_known_formats_are_not_decoded(tensors: Tensors, config: dict[str, Any] | None, name: str) -> None:
    codes, companions = quantised_tensors(specs(tensors), config)
    ((code, found),) = codes.items()
    assert name in found.name
    assert found.codec is None
    assert {*companions, code} == set(tensors)
    assert decoded(specs(tensors), config) == (specs(tensors), ())


@pytest.mark.parametrize("method", ["fp8", "compressed-tensors", "modelopt", "modelopt_fp4", "fbgemm_fp8", "", None])
@pytest.mark.parametrize("transforms", [{}, {"transform_config": {}}, {"transform_config": None}])
def test_tools_that_are_known_are_read(method: str | None, transforms: dict[str, Any]) -> None:
    config = declared(quant_method=method, modules_to_not_convert=["m"], ignore=["re:.*"], **transforms)
    tensors, unneeded = decoded(specs(FP8), config)
    assert (list(tensors), unneeded) == (["m.weight"], ())  # skip lists do not count: tensors do


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "gguf", "aqlm", "hqq", "auto-round", "torchao"])
def test_codes_of_other_tools_are_called_by_the_tool(method: str) -> None:
    ((found,),) = (
        [*quantised_tensors(specs({"m.codes": ("I16", (8, 8))}), declared(quant_method=method))[0].values()],
    )
    assert found.name == f"an unknown format of {method}"
    assert "bfloat16" in found.instead


def test_small_floats_that_no_scale_explains() -> None:
    alone = {"a.weight": ("F8_E4M3", (64, 64)), "b.weight": ("F8_E5M2", (64, 64)), "c.weight": ("F8_E4M3FNUZ", (8, 8))}
    codes, _ = quantised_tensors(specs({**alone, **FP8}), None)
    assert {name: codes[name] for name in alone} == {
        "a.weight": NO_SCALE, "b.weight": OTHER_FLOATS, "c.weight": OTHER_FLOATS,
    }  # fmt: skip
    odd: Tensors = {"d.weight": ("F8_E4M3", (64, 64)), "d.other_scale": ("F32", (64,))}
    assert quantised_tensors(specs(odd), None) == ({"d.weight": UNKNOWN}, {"d.other_scale": "d.weight"})


def test_every_refusal_says_what_to_do() -> None:
    assert all(one.instead.count("use the release of this model") == 1 for one in (NO_SCALE, OTHER_FLOATS, UNKNOWN))
