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


BORDERS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])


@pytest.mark.parametrize("ties", ["even", "away", "zero"])
def test_every_number_becomes_the_closest_code_of_e2m1(ties: elements.Ties) -> None:
    beside = [torch.nextafter(BORDERS, torch.tensor(toward)) for toward in (0.0, 9.0)]
    every = torch.arange(0, 0x7F81, dtype=torch.int16).view(torch.bfloat16).float()  # no negative number, no NaN
    size = torch.cat([BORDERS, *beside, every, torch.tensor([2.0**-149])])
    if len(size) % 2:
        size = torch.cat([size, torch.tensor([1.0])])
    codes = torch.zeros(size.shape, dtype=torch.uint8)
    for number, border in enumerate(BORDERS):
        upper = ties == "away" or (ties == "even" and number % 2 == 1)
        codes += (size >= border if upper else size > border).to(torch.uint8)
    for sign, of_sign in ((1.0, 0), (-1.0, 8)):
        packed = elements.pack_e2m1(sign * size, ties)
        assert torch.equal(torch.stack((packed & 15, packed >> 4), -1).flatten(), codes | of_sign)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 2.0**-140, 2.0**-149, 3e38, 2.0**121, float("inf"), float("nan"), 0.0])
@pytest.mark.parametrize("codes", [range(256), [n for n in range(256) if n & 0x7F != 0x7F]])
def test_products_of_e4m3_and_scales_are_those_of_their_values(codes: list[int], scale: float) -> None:
    stored = torch.tensor(list(codes), dtype=torch.uint8).view(torch.float8_e4m3fn)
    factor = torch.tensor([scale])
    values, factors = elements.e4m3_values(stored, factor)
    right = stored.float() * factor
    product = values * factors
    assert torch.equal(product.isnan(), right.isnan())
    numbers = ~right.isnan()
    assert torch.equal(product[numbers].view(torch.int32), right[numbers].view(torch.int32))


def test_the_largest_of_a_group_is_nan_where_one_is() -> None:
    groups = torch.tensor([[-3.0, 2.0], [0.0, -0.0], [float("nan"), 9.0], [-float("inf"), 1.0]])
    found = elements.largest(groups)
    assert found[:2].tolist() == [3.0, 0.0]
    assert found[2].isnan()
    assert found[3].isinf()


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
    words = elements.pack_integers(codes.to(torch.uint8), bits)
    assert words.shape == (3, -(-count * bits // 32))
    assert torch.equal(elements.unpack_integers(words, bits, count), codes.float())
    text = sum(int(code) << bits * n for n, code in enumerate(codes[0]))
    assert [int(word) & 0xFFFFFFFF for word in words[0]] == [text >> 32 * n & 0xFFFFFFFF for n in range(len(words[0]))]


def test_the_smallest_power_of_two_that_is_no_less() -> None:
    values = torch.tensor([1.0, 1.0000001, 1.5, 2.0, 2.0**-127, 3e38])
    assert elements.power_of_two_from(values).tolist() == [127, 128, 128, 128, 1, 254]
