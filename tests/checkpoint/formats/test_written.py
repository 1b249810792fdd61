"""The tensors in which a weight is written: their names, their order, and what must lie beside it."""

from __future__ import annotations

import pytest

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.fp8_scaled import Fp8Scaled
from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp
from svc_dist.checkpoint.formats.codecs.nvfp4 import Nvfp4
from svc_dist.checkpoint.formats.codecs.packed_integers import PackedIntegers
from svc_dist.checkpoint.formats.codecs.texts import codec_text
from svc_dist.checkpoint.formats.written import alignment, together, written_parts

BLOCK = Fp8Block((300, 128), "deepgemm")
NVFP4 = Nvfp4((32, 64), "compressed-tensors")
INT4 = PackedIntegers((32, 64), "compressed-tensors")
GPT_OSS = Mxfp((64, 32), "openai", 4, "_blocks", "_scales", blocked=True)
FUSED = Fp8Block((32, 64), "transformers", (16, 32), "_scale_inv", codes="")
SCALAR = Fp8Scaled((32, 64), "modelopt")


@pytest.mark.parametrize(
    ("name", "shape", "codec", "expected"),
    [
        ("a.q.weight", (300, 128), BLOCK, [
            ("a.q.weight", "F8_E4M3", (300, 128)), ("a.q.weight_scale_inv", "F32", (3, 1)),
        ]),
        ("a.q.weight", (32, 64), NVFP4, [
            ("a.q.weight_packed", "U8", (32, 32)), ("a.q.weight_global_scale", "F32", (1,)),
            ("a.q.weight_scale", "F8_E4M3", (32, 4)),
        ]),
        ("a.q.weight", (32, 64), INT4, [
            ("a.q.weight_packed", "I32", (32, 8)), ("a.q.weight_shape", "I64", (2,)),
            ("a.q.weight_scale", "BF16", (32, 2)),
        ]),
        ("e.gate_up_proj", (4, 32, 64), GPT_OSS, [
            ("e.gate_up_proj_blocks", "U8", (4, 64, 1, 16)), ("e.gate_up_proj_scales", "U8", (4, 64, 1)),
        ]),
        ("e.down_proj", (4, 32, 64), FUSED, [
            ("e.down_proj", "F8_E4M3", (4, 32, 64)), ("e.down_proj_scale_inv", "F32", (4, 2, 2)),
        ]),
        ("a.q.weight", (32, 64), SCALAR, [("a.q.weight", "F8_E4M3", (32, 64)), ("a.q.weight_scale", "F32", ())]),
    ],
)  # fmt: skip
def test_a_weight_is_written_under_the_names_of_its_family(
    name: str, shape: tuple[int, ...], codec: Codec, expected: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    parts = written_parts(name, "BF16", shape, codec_text(codec))
    assert [(part.name, part.dtype, part.shape) for part in parts] == expected
    assert {part.part for part in parts} == {*codec.parts}


def test_a_weight_without_a_codec_is_itself() -> None:
    (part,) = written_parts("norm.weight", "BF16", (7,), None)
    assert (part.name, part.dtype, part.shape, part.nbytes, alignment([part])) == ("norm.weight", "BF16", (7,), 14, 2)


@pytest.mark.parametrize(("codec", "bytes_kept"), [(NVFP4, 4), (GPT_OSS, 8), (SCALAR, 4), (INT4, 8)])
def test_what_follows_codes_is_aligned_as_their_sizes_allow(codec: Codec, bytes_kept: int) -> None:
    shape = (4, 32, 64) if codec is GPT_OSS else (32, 64)
    assert alignment(written_parts("a", "BF16", shape, codec_text(codec))) == bytes_kept


def test_matrices_that_engines_run_as_one_lie_together() -> None:
    def first(*names: str) -> set[str]:
        return {together(f"model.layers.3.{name}.weight", codec_text(NVFP4)) for name in names}

    assert first("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj") == {
        "model.layers.3.self_attn.k_proj.weight"
    }
    assert first("mlp.up_proj", "mlp.gate_proj") == {"model.layers.3.mlp.gate_proj.weight"}
    assert first("self_attn.o_proj") == {"model.layers.3.self_attn.o_proj.weight"}
    assert len(first("mlp.experts.0.w1", "mlp.experts.0.w3", "mlp.experts.1.w1")) == 2
    assert together("model.layers.3.self_attn.q_proj.weight", codec_text(BLOCK)).endswith("q_proj.weight")
