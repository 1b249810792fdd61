"""Merged values become codes block by block; blocks that are a model's own keep its codes and scales."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svc_dist.checkpoint.formats.codecs.codec import Codec
from svc_dist.checkpoint.formats.codecs.fp8_block import Fp8Block
from svc_dist.checkpoint.formats.codecs.mxfp import Mxfp
from svc_dist.run.results import encoding
from svc_dist.run.results.encoding import Parts, encoded, largest_entries, unchanged_blocks

BLOCK = Fp8Block((40, 20), "deepgemm", (16, 8))  # blocks of 16, 16 and 8 rows
TURNED = Mxfp((6, 32), "openai", 4, "_blocks", "_scales", blocked=True)


def weights(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def joined(codec: Codec, parts: list[Parts]) -> Parts:
    names = [part.suffix for part in codec.parts]
    return {name: torch.cat([one[name].view(torch.uint8) for one in parts if name in one]) for name in names}


def as_bytes(parts: Parts) -> Parts:
    return {name: part.view(torch.uint8) for name, part in parts.items()}


def same(one: Parts, other: Parts) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("chunk", [1, 500, 1 << 18])
def test_chunks_give_the_codes_of_the_whole(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    weight = weights((3, 40, 20))
    made = joined(BLOCK, list(encoded(BLOCK, weight.view(-1), 0, "cpu")))
    assert same(made, joined(BLOCK, [BLOCK.encode(matrix) for matrix in weight]))
    second = joined(BLOCK, list(encoded(BLOCK, weight[1].view(-1), 800, "cpu")))
    assert same(second, as_bytes(BLOCK.encode(weight[1])))


def test_a_transpose_is_encoded_as_the_codec_has_it() -> None:
    weight = weights((2, 32, 6))
    made = joined(TURNED, list(encoded(TURNED, weight.view(-1), 0, "cpu")))
    assert same(made, joined(TURNED, [TURNED.encode(matrix.T.contiguous()) for matrix in weight]))
    other = weight.clone()
    other[1, 5, 2] += 1  # row 2 of the second matrix as the codec has it
    assert unchanged_blocks(TURNED, other.view(-1), weight.view(-1), 0).tolist() == [True] * 8 + [False] + [True] * 3


def test_blocks_are_unchanged_where_every_entry_is() -> None:
    weight = weights((2, 40, 20))
    other = weight.clone()
    other[0, 35, 3] += 1
    other[1, 15, 19] += 1
    expected = [True, True, False, False, True, True]
    assert unchanged_blocks(BLOCK, other.view(-1), weight.float().view(-1), 0).tolist() == expected
    assert unchanged_blocks(BLOCK, other[1].view(-1), weight[1].view(-1), 800).tolist() == expected[3:]


@pytest.mark.parametrize("chunk", [1, 1 << 18])
def test_unchanged_blocks_keep_what_a_model_stores(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    weight = weights((40, 20))
    scale = ".weight_scale_inv"
    odd = {".weight": torch.full((40, 20), 3.0).to(torch.float8_e4m3fn), scale: torch.full((3, 3), 7.0)}

    def stored(matrix: int, begin: int, end: int) -> Parts:
        return {".weight": odd[".weight"][begin:end], scale: odd[scale][begin // 16 : -(-end // 16)]}

    kept = torch.tensor([False, True, True])
    made = joined(BLOCK, list(encoded(BLOCK, weight.view(-1), 0, "cpu", stored, kept)))
    new, old = as_bytes(BLOCK.encode(weight)), as_bytes(odd)
    assert torch.equal(made[".weight"], torch.cat([new[".weight"][:16], old[".weight"][16:]]))
    assert torch.equal(made[scale], torch.cat([new[scale][:1], old[scale][1:]]))
    every = joined(BLOCK, list(encoded(BLOCK, weight.view(-1), 0, "cpu", stored, torch.ones(3, dtype=torch.bool))))
    assert same(every, old)


def test_the_largest_entry_is_that_of_each_matrix() -> None:
    weight = torch.zeros(2, 40, 20, dtype=torch.bfloat16)
    weight[0, 39, 0], weight[1, 0, 1] = -5, 3
    assert [float(one) for one in largest_entries(BLOCK, weight.view(-1))] == [5.0, 3.0]
