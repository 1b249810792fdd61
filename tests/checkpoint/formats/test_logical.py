"""A quantised weight is one tensor, and tensors that do not go together are refused."""

from __future__ import annotations

import pytest

from svc_dist.checkpoint.formats.logical import LogicalTensor, logical_tensors
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import DamagedInputError

FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def logical(
    config: dict[str, object] | None = None, **tensors: tuple[str, tuple[int, ...]]
) -> dict[str, LogicalTensor]:
    specs = [TensorSpec(name.replace("__", "."), dtype, shape, "f", 0, 1) for name, (dtype, shape) in tensors.items()]
    return logical_tensors({spec.name: spec for spec in specs}, config)


@pytest.mark.parametrize(("shape", "grid"), [((576, 7168), (5, 56)), ((192, 64), (2, 1)), ((128, 128), (1, 1))])
def test_blocks_come_from_the_config_and_edges_are_cut(shape: tuple[int, int], grid: tuple[int, int]) -> None:
    found = logical(FP8, m__weight=("F8_E4M3", shape), m__weight_scale_inv=("F32", grid))["m.weight"]
    assert (found.shape, found.count, found.codec.grain, found.codec.of_the_whole) == (shape, 1, 128, ())
    assert [suffix for suffix, _ in found.parts] == [".weight", ".weight_scale_inv"]


def test_scales_of_activations_are_no_part_of_the_weight() -> None:
    static = {"m__weight": ("F8_E4M3", (8, 4)), "m__weight_scale": ("F32", ()), "m__input_scale": ("F32", ())}
    found = logical(None, **static)["m.weight"]  # type: ignore[arg-type]
    assert [suffix for suffix, _ in found.parts] == [".weight", ".weight_scale"]
    assert set(found.stored) == {".weight", ".weight_scale", ".input_scale"}
    assert found.codec.of_the_whole == (".weight_scale",)


def test_fused_experts_are_a_stack_of_matrices() -> None:
    blocks = logical(
        None, e__gate_up_proj_blocks=("U8", (4, 6, 2, 16)), e__gate_up_proj_scales=("U8", (4, 6, 2)),
        e__gate_up_proj_bias=("BF16", (4, 6)),
    )  # fmt: skip
    found = blocks["e.gate_up_proj"]
    assert (found.shape, found.count, found.codec.shape, found.codec.turned) == ((4, 64, 6), 4, (6, 64), True)
    fbgemm = logical(None, e__gate_up_proj=("F8_E4M3", (4, 6, 8)), e__gate_up_proj_scale=("F32", (4, 1, 8)))
    assert fbgemm["e.gate_up_proj"].codec.of_the_whole == ("_scale",)


@pytest.mark.parametrize(
    "tensors",
    [
        {"m__weight": ("F8_E4M3", (27136, 6144)), "m__weight_scale_inv": ("F32", (216, 48))},  # slices apart
        {"m__weight": ("F8_E4M3", (130, 12)), "m__weight_scale_inv": ("F32", (1, 1, 1))},
        {"m__weight": ("F8_E4M3", (8, 12)), "m__weight_scale": ("F32", (3, 1))},
        {"m__weight_packed": ("U8", (8, 16)), "m__weight_scale": ("U8", (8, 2))},
        {"m__weight_packed": ("U8", (8, 20)), "m__weight_scale": ("U8", (8, 1))},
        {"m__weight": ("U8", (8, 16)), "m__weight_scale": ("F8_E4M3", (8, 3)), "m__weight_scale_2": ("F32", ())},
        {"e__w_blocks": ("U8", (4, 6, 2, 16)), "e__w_scales": ("U8", (4, 6, 3))},
    ],
)  # fmt: skip
def test_tensors_that_do_not_go_together_are_refused(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    with pytest.raises(DamagedInputError, match=r"f: .*(weight|blocks)"):
        logical(FP8, **tensors)


def test_formats_without_a_codec_are_no_logical_tensors() -> None:
    assert not logical(None, m__qweight=("I32", (8, 8)), m__scales=("F16", (1, 8)), m__qzeros=("I32", (1, 1)))
