"""Every output byte has one place: shards, offsets and ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc_dist.checkpoint.dtype import ITEM_SIZE, byte_count, bytes_of
from svc_dist.checkpoint.header import DATA_ALIGNMENT, TensorSpec, render_header
from svc_dist.checkpoint.layout import MAX_RANGE, MIN_RANGE, Shard, pack, ranges, share
from svc_dist.tensor_names import natural_key

Tensor = tuple[str, str, tuple[int, ...], None]
GB = 10**9

DTYPES = st.sampled_from(["F64", "F32", "BF16", "F16", "I8", "BOOL", "F4"])
SHAPES = st.lists(st.sampled_from([0, 1, 2, 6, 128, 1024, 4096]), max_size=3).map(tuple)
TENSORS = st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=12).map(
    lambda chosen: [
        (f"layers.{number}.weight", dtype, shape if dtype != "F4" else (*shape, 2), None)
        for number, (dtype, shape) in enumerate(chosen)
    ]
)
SIZES = st.integers(1, 40).map(lambda exponent: 2**exponent)


def by_rows(spec: TensorSpec) -> int:
    return spec.shape[-1] if spec.shape else 1


def whole(spec: TensorSpec) -> int:
    return 0


@given(TENSORS, SIZES)
def test_shards_hold_every_tensor_once_without_holes_and_aligned(tensors: list[Tensor], largest: int) -> None:
    shards = pack(tensors, largest)
    assert sorted((s.name, s.dtype, s.shape, s.codec) for shard in shards for s in shard.tensors) == sorted(tensors)
    for shard in shards:
        assert shard.header_size % DATA_ALIGNMENT == 0
        assert len(render_header((spec.name, spec.dtype, spec.shape) for spec in shard.tensors)) == shard.header_size
        position = shard.header_size
        for spec in shard.tensors:
            assert spec.file == shard.file
            assert spec.start == position
            assert spec.start % ITEM_SIZE.get(spec.dtype, 1) == 0
            assert spec.nbytes == byte_count(spec.dtype, spec.shape)
            position = spec.end
        assert position == shard.size


@given(TENSORS, SIZES)
def test_a_shard_passes_the_largest_size_only_for_one_tensor(tensors: list[Tensor], largest: int) -> None:
    for shard in pack(tensors, largest):
        filled = [spec for spec in shard.tensors if spec.nbytes]
        assert shard.size - shard.header_size <= largest or len(filled) == 1


@given(TENSORS, SIZES)
def test_shards_follow_one_another_in_natural_order(tensors: list[Tensor], largest: int) -> None:
    keys = [sorted(natural_key(spec.name) for spec in shard.tensors) for shard in pack(tensors, largest)]
    assert [key for shard in keys for key in shard] == sorted(natural_key(name) for name, _, _, _ in tensors)


@given(TENSORS, SIZES, st.sampled_from([by_rows, whole]))
def test_ranges_tile_each_shard_and_pieces_tile_each_tensor(tensors: list[Tensor], largest: int, grain: object) -> None:
    for shard in pack(tensors, largest):
        check_ranges(shard, by_rows if grain is by_rows else whole)


def check_ranges(shard: Shard, grain: object) -> list[int]:
    """Hold the ranges of a shard against what the layout promises; their sizes."""
    cut = ranges(shard, by_rows if grain is by_rows else whole)
    specs = {spec.name: spec for spec in shard.tensors}
    position = 0
    elements = dict.fromkeys(specs, 0)
    for part in cut:
        assert part.start == position
        assert part.end >= part.start
        byte = max(part.start, shard.header_size)
        for name, first, last in part.pieces:
            spec = specs[name]
            assert first == elements[name]
            assert spec.start + bytes_of(spec.dtype, first) == byte
            elements[name] = last
            byte = spec.start + bytes_of(spec.dtype, last)
        assert byte == part.end
        position = part.end
    assert position == shard.size
    assert elements == {name: spec.numel for name, spec in specs.items()}
    sizes = [part.end - part.start for part in cut]
    assert all(size >= MIN_RANGE for size in sizes[:-1])
    assert len(sizes) <= 10_000
    return sizes


def test_layer_2_comes_before_layer_10() -> None:
    names = [f"model.layers.{number}.weight" for number in (10, 2, 1, 0)]
    [shard] = pack([(name, "F32", (1,), None) for name in names], GB)
    assert [spec.name for spec in shard.tensors] == [f"model.layers.{number}.weight" for number in (0, 1, 2, 10)]


@given(st.permutations(["0", "a", "0a", "a0", "", "00", "a.0", "0.a", "a.00", "9" * 5000, "²", "٣"]))
def test_any_names_have_one_order_however_they_come(names: list[str]) -> None:
    alphabetical = sorted(names)
    assert sorted(names, key=natural_key) == sorted(alphabetical, key=natural_key)


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_numbers_in_names_count_as_numbers(one: int, other: int) -> None:
    assert (natural_key(f"a.{one}.b") < natural_key(f"a.{other}.b")) == (one < other)


def test_wider_dtypes_come_first_in_a_shard() -> None:
    [shard] = pack(
        [("a", "BOOL", (3,), None), ("b", "BF16", (3,), None), ("c", "F32", (3,), None), ("d", "I64", (1,), None)], GB
    )
    assert [spec.name for spec in shard.tensors] == ["d", "c", "b", "a"]


def test_names_of_shards_count_from_one() -> None:
    assert [shard.file for shard in pack([("a", "F32", (1,), None)], GB)] == ["model.safetensors"]
    assert [shard.file for shard in pack([("a", "F32", (4,), None), ("b", "F32", (4,), None)], 16)] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_a_huge_tensor_is_cut_between_rows_when_that_is_allowed() -> None:
    [shard] = pack([("embed", "BF16", (100_000, 3001), None), ("norm", "BF16", (3001,), None)], 5 * GB)
    sizes = check_ranges(shard, by_rows)
    assert len(sizes) > 8
    assert max(sizes) <= MAX_RANGE + MIN_RANGE
    pieces = [piece for part in ranges(shard, by_rows) for piece in part.pieces if piece[0] == "embed"]
    assert all(first % 3001 == 0 for _, first, _ in pieces)


def test_a_matrix_that_must_stay_whole_is_one_piece() -> None:
    [shard] = pack([("w", "BF16", (20_000, 20_000), None), ("norm", "BF16", (20_000,), None)], 5 * GB)
    pieces = [piece for part in ranges(shard, whole) for piece in part.pieces]
    assert pieces == [("norm", 0, 20_000), ("w", 0, 400_000_000)]


def test_a_batch_of_matrices_is_cut_between_matrices_only() -> None:
    [shard] = pack([("experts", "BF16", (64, 2048, 1024), None)], 5 * GB)
    cut = ranges(shard, lambda spec: 2048 * 1024)
    assert len(cut) > 2
    assert all(first % (2048 * 1024) == 0 for part in cut for _, first, _ in part.pieces)


def test_small_tensors_ride_together() -> None:
    [shard] = pack([(f"layers.{number}.norm", "BF16", (4096,), None) for number in range(3000)], 5 * GB)
    assert len(check_ranges(shard, by_rows)) == -(-shard.size // MIN_RANGE)


@pytest.mark.parametrize("size", [60 * GB, 600 * GB])
def test_a_giant_shard_stays_within_the_parts_of_an_upload(size: int) -> None:
    rows = size // 2 // 8192
    [shard] = pack([("giant", "BF16", (rows, 8192), None)], 5 * GB)
    sizes = check_ranges(shard, by_rows)
    assert max(sizes) <= 5 * 2**30


def test_no_tensors_are_no_shards_and_empty_tensors_are_a_shard_of_its_header() -> None:
    assert pack([], GB) == []
    [shard] = pack([("a", "F32", (0, 4), None)], GB)
    assert shard.size == shard.header_size
    assert [(part.start, part.end) for part in ranges(shard, by_rows)] == [(0, shard.size)]


def test_quick_work_of_a_large_model_shares_ranges_and_that_on_matrices_does_not() -> None:
    experts = [(f"experts.{number}.weight", "BF16", (2048, 7168), None) for number in range(4000)]
    shards = pack(experts, 5 * GB)
    assert share(shards) == 3 * MAX_RANGE // 4
    assert share(shards[:1]) < MIN_RANGE, "a small model is cut as finely as it may be"
    quick, slow = (
        [part for shard in shards for part in ranges(shard, whole, enough=enough)]
        for enough in (lambda spec: share(shards), lambda spec: 0)
    )
    assert len(slow) == 4000
    assert len(quick) == sum(-(-len(shard.tensors) // 2) for shard in shards)
