"""The codes of single elements against tables that torch and compressed-tensors wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svc_dist.checkpoint.formats.codecs import elements

TABLES = load_file(Path(__file__).parents[3] / "vectors" / "formats" / "tables_all_codes.safetensors")


def test_e8m0_is_decoded_as_torch_does() -> None:
    values, right = elements.e8m0(TABLES["code"]), TABLES["e8m0_f32"]
    assert torch.equal(values[:255], right[:255])
    assert values[255].isnan()


def test_pairs_of_e2m1_are_decoded_first_half_first() -> None:
    assert torch.equal(elements.unpack_e2m1(TABLES["code"].view(256, 1)), TABLES["e2m1_pair_f32"])
    assert torch.equal(
        torch.signbit(elements.unpack_e2m1(torch.tensor([[0x88]], dtype=torch.uint8))), torch.tensor([[True, True]])
    )


def test_e4m3_saturates_at_its_borders() -> None:
    codes = elements.e4m3(TABLES["e4m3_boundary_in"]).view(torch.uint8)
    assert torch.equal(codes, TABLES["e4m3_boundary_clamped_code"])


@pytest.mark.parametrize(
    ("ties", "right"),
    [
        ("even", [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]),
        ("away", [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]),
        ("zero", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]),
    ],
)
def test_ties_of_e2m1(ties: elements.Ties, right: list[float]) -> None:
    between = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 9.0])
    for sign in (1.0, -1.0):
        again = elements.unpack_e2m1(elements.pack_e2m1(sign * between, ties))
        assert torch.equal(again, sign * torch.tensor([*right, 6.0]))


def test_zeros_of_e2m1() -> None:
    values = torch.tensor([0.0, -0.0, -0.1, 0.1])
    packed = {zeros: elements.pack_e2m1(values, "even", zeros) for zeros in ("signed", "positive", "negative")}  # type: ignore[arg-type]
    assert {zeros: bytes(codes.tolist()).hex() for zeros, codes in packed.items()} == {
        "signed": "8008", "positive": "0000", "negative": "8808",
    }  # fmt: skip


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("count", [1, 20, 64])
def test_packed_integers_come_back(bits: int, count: int) -> None:
    codes = torch.randint(0, 1 << bits, (3, count), generator=torch.Generator().manual_seed(bits), dtype=torch.int32)
    words = elements.pack_integers(codes, bits)
    assert words.shape == (3, -(-count * bits // 32))
    assert torch.equal(elements.unpack_integers(words, bits, count), codes)
    text = sum(int(code) << bits * n for n, code in enumerate(codes[0]))
    assert [int(word) & 0xFFFFFFFF for word in words[0]] == [text >> 32 * n & 0xFFFFFFFF for n in range(len(words[0]))]


def test_the_smallest_power_of_two_that_is_no_less() -> None:
    values = torch.tensor([1.0, 1.0000001, 1.5, 2.0, 2.0**-127, 3e38])
    assert elements.power_of_two_from(values).tolist() == [127, 128, 128, 128, 1, 254]
