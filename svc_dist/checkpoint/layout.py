"""The position of every output byte: shards, offsets and ranges. Pure arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import structs

from svc_dist.checkpoint.dtype import ITEM_SIZE, bytes_of
from svc_dist.checkpoint.formats.written import WrittenPart, alignment, together, written_parts
from svc_dist.checkpoint.header import TensorSpec, render_header
from svc_dist.checkpoint.weight_files import TRANSFORMERS, WeightNames
from svc_dist.storage.writing.base import PART
from svc_dist.tensor_names import natural_key

#: A range on object storage is one part of a multipart upload: at least this many bytes, except the last of a shard.
MIN_RANGE = 5 * 2**20
#: Element-wise work on a larger tensor is split, to use all workers and little memory.
MAX_RANGE = 64 * 2**20
#: Object storage allows 10,000 parts an upload; ranges and parts grow so that a shard has fewer than this sum.
_MAX_RANGES = 8000
_MAX_PARTS = 2000
_SHARES = 2048


#: Name, dtype and shape of a weight, and the codec in which it is written, if any.
Weight = tuple[str, str, tuple[int, ...], str | None]


@dataclass(frozen=True)
class Shard:
    """One output file: the header, then its tensors without holes.

    One that is written in codes has all the bytes of codes and companions; its dtype is that of the weight.
    """

    file: str
    header_size: int
    size: int
    tensors: tuple[TensorSpec, ...]


class Range(msgspec.Struct, frozen=True, gc=False):
    """Bytes ``[start, end)`` of a shard and the pieces in them: a tensor's name, its first and its last element.

    The first range of a shard includes the header.
    """

    start: int
    end: int
    pieces: tuple[tuple[str, int, int], ...]


def pack(
    weights: Iterable[Weight],
    max_shard_size: int,
    names: WeightNames = TRANSFORMERS,
    modules: Collection[str] = (),
) -> list[Shard]:
    """Shards of at most ``max_shard_size`` bytes of data for these weights, in natural order of their names.

    A larger one is alone in its shard; those whose codes depend on one another are neighbours. Within a shard wider
    dtypes come first, so that every tensor is aligned where the sizes of codes and scales allow it. The weights of
    each of the ``modules``, folders that begin their names, have a file there.
    """
    by_folder: dict[str, list[Weight]] = {"": []}
    for weight in weights:
        folder = next((one for one in sorted(modules) if weight[0].startswith(f"{one}/")), "")
        by_folder.setdefault(folder, []).append(weight)
    shards = _packed(by_folder.pop(""), max_shard_size, names, "")
    for folder, of_module in sorted(by_folder.items()):
        shards += _packed(of_module, sys.maxsize, TRANSFORMERS, f"{folder}/")
    return shards


@dataclass
class _Block:
    """Weights that stay together, and the tensors of each that are written."""

    specs: list[TensorSpec]
    parts: list[list[WrittenPart]]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for parts in self.parts for part in parts)

    @property
    def alignment(self) -> int:
        return min(map(alignment, self.parts))


def _blocks(weights: Iterable[Weight]) -> list[_Block]:
    """The weights in natural order of their names, each with those that its codes depend on."""
    found: dict[str, _Block] = {}
    for name, dtype, shape, codec in sorted(weights, key=lambda weight: natural_key(weight[0])):
        block = found.setdefault(together(name, codec), _Block([], []))
        block.specs.append(TensorSpec(name, dtype, shape, "", 0, 0, codec=codec))
        block.parts.append(written_parts(name, dtype, shape, codec))
    return list(found.values())


def _packed(weights: Iterable[Weight], max_shard_size: int, names: WeightNames, folder: str) -> list[Shard]:
    """The shards of one folder, whose name begins the names of its weights."""
    groups: list[list[_Block]] = []
    filled = 0
    for block in _blocks(weights):
        size = block.nbytes
        if not groups or (filled + size > max_shard_size and filled > 0):
            groups.append([])
            filled = 0
        groups[-1].append(block)
        filled += size
    shards = []
    for number, group in enumerate(groups, 1):
        file = f"{folder}{names.file(number, len(groups))}"
        group.sort(key=lambda block: -block.alignment)  # stable: natural order within a width
        written = (part for block in group for parts in block.parts for part in parts)
        header = render_header((part.name.removeprefix(folder), part.dtype, part.shape) for part in written)
        position = header_size = len(header)
        specs = []
        for spec, parts in (
            (spec, parts) for block in group for spec, parts in zip(block.specs, block.parts, strict=True)
        ):
            end = position + sum(part.nbytes for part in parts)
            specs.append(structs.replace(spec, file=file, start=position, end=end))
            position = end
        shards.append(Shard(file, header_size, position, tuple(specs)))
    return shards


def ranges(
    shard: Shard,
    grain: Callable[[TensorSpec], int],
    joined: Callable[[TensorSpec], bool] = lambda spec: False,
    enough: Callable[[TensorSpec], int] = lambda spec: 0,
) -> list[Range]:
    """Cut a shard into contiguous ranges, never after a tensor that is ``joined`` to the next one.

    ``grain(tensor)``: how many elements must stay together (a row, a matrix); 0 for the whole tensor. Small tensors
    share a range of at least ``MIN_RANGE`` bytes, and of ``enough(tensor)`` where it ends with this tensor; only the
    last range may be smaller.
    """
    smallest = max(MIN_RANGE, -(-shard.size // _MAX_RANGES))
    result: list[Range] = []
    start, pieces = 0, []
    for spec in shard.tensors:
        for first, last in _cuts(spec, grain(spec), max(MAX_RANGE, smallest)):
            pieces.append((spec.name, first, last))
            end = spec.end if last == spec.numel else spec.start + bytes_of(spec.dtype, last)
            if end - start >= max(smallest, enough(spec)) and not joined(spec):
                result.append(Range(start, end, tuple(pieces)))
                start, pieces = end, []
    if pieces or start < shard.size or not result:
        result.append(Range(start, shard.size, tuple(pieces)))
    return result


def share(shards: Iterable[Shard], shares: int = _SHARES) -> int:
    """Bytes that a range of quick work has at least: a large model has thousands of them, not tens of thousands."""
    return min(3 * MAX_RANGE // 4, sum(shard.size for shard in shards) // shares)


def parts(range_size: int, shard_size: int) -> list[int]:
    """Sizes of the parts in which one range of a shard is uploaded; all reach ``MIN_RANGE`` if the range does."""
    part = max(PART, -(-shard_size // _MAX_PARTS))
    count = max(1, range_size // part)
    return [part] * (count - 1) + [range_size - part * (count - 1)]


def _cuts(spec: TensorSpec, grain: int, largest: int) -> Sequence[tuple[int, int]]:
    if grain <= 0 or spec.nbytes <= largest or spec.dtype not in ITEM_SIZE or spec.codec is not None:
        return [(0, spec.numel)]
    step = max(1, largest // (grain * ITEM_SIZE[spec.dtype])) * grain
    return [(first, min(first + step, spec.numel)) for first in range(0, spec.numel, step)]
