"""One tensor of a result in a plan: its place in a shard, what becomes of it, and the bytes from which it is made."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
from msgspec import structs

from svc_dist.checkpoint.formats.written import WrittenPart, written_parts
from svc_dist.plan.adapters.factor import Factor
from svc_dist.plan.inputs import Added, InputRange
from svc_dist.plan.tensors.matrices import Batch
from svc_dist.plan.vocabulary.row_maps import RowMaps
from svc_dist.storage.reading import ByteRange


class PlannedTensor(msgspec.Struct, frozen=True, gc=False):
    """One output tensor: its bytes ``[start, end)`` of a shard, its disposition, and its inputs (base first).

    ``disposition``: a number in each result's list. ``batch``: ``(count, m, n)`` for matrices. ``turned``: these are
    stored as their transposes, which some step does not merge to the transposes of results. ``sources``: of a copied
    tensor the one model that it comes from, of a merged one all models, None for an expert that has the base's.
    ``factors``: what an adapter adds to each expert (or to the copied tensor), empty where no adapter adds anything.
    ``base_factors``: what the base's own adapter adds. ``merged_rows``: how many first rows are merged (None: all); the
    others are model ``rest``'s. ``copies``: of the sources, stored under other names; they must be equal. ``tied_to``:
    the tensor that it equals, or in an adapter the one that it is for; ``factor``: one of what is added to that.
    ``maps``: where the sources store the merged rows, None where each has one number in all. ``codec``: in which it is
    written, its bytes those of codes and companions; ``dtype`` is then what is encoded. None: it is written as it is.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    start: int
    end: int
    disposition: int
    batch: Batch | None
    sources: tuple[InputRange | None, ...]
    factors: tuple[Added | None, ...] = ()
    turned: bool = False
    merged_rows: int | None = None
    rest: int = 0
    copies: tuple[InputRange, ...] = ()
    tied_to: str | None = None
    factor: Factor | None = None
    base_factors: Added = ()
    maps: RowMaps | None = None
    codec: str | None = None

    @property
    def written(self) -> list[WrittenPart]:
        """The tensors that hold it in its shard, in order of their bytes."""
        return written_parts(self.name, self.dtype, self.shape, self.codec)

    @property
    def dense(self) -> PlannedTensor:
        """Of a factor: the tensor of the base that the adapter changes, with the same inputs."""
        return self if self.factor is None else structs.replace(self, shape=self.factor.shape, factor=None)

    def spans(self, first: int, last: int) -> list[Span]:
        """Elements ``[first, last)`` in order: those that the tensor's disposition is for, then those of ``rest``."""
        if self.merged_rows is None:
            return [(self, first, last, True)]
        end = self.merged_rows * math.prod(self.shape[1:])
        cut = min(max(first, end), last)
        sources = self.sources[self.rest : self.rest + 1]
        copies = tuple(copy for copy in self.copies if any(one and one.input == copy.input for one in sources))
        mine = self.base_factors if self.rest == 0 else ()
        copied = structs.replace(
            self, sources=sources, factors=(), base_factors=mine, copies=copies, merged_rows=None, maps=None
        )
        return [span for span in ((self, first, cut, True), (copied, cut, last, False)) if span[1] < span[2]]

    @property
    def row(self) -> int:
        """Elements of a row."""
        return self.shape[-1] if self.shape else 1

    def reads(self, first: int, last: int) -> Iterator[tuple[int, ByteRange]]:
        """The byte ranges that elements ``[first, last)`` are computed from, each with the number of its input.

        The two factors of a pair are written by one unit, which reads their inputs once: for the first.
        """
        if self.factor is not None:
            if self.factor.side == "a":
                yield from self.dense.reads(0, self.factor.numel)
            return
        for tensor, start, end, _ in self.spans(first, last):
            copies = ((copy, low, high) for _, copy, low, high in tensor.repeated(start, end))
            for source, low, high in (*tensor.stored(start, end), *copies):
                yield from ((source.input, needed) for needed in source.reads(low, high))
            for added in (*tensor.factors, tensor.base_factors):
                for one in added or ():
                    low, high = one.within(start, end)
                    for needed in one.ranges(low, high) if low < high else ():
                        yield one.a.input, needed

    def stored(self, first: int, last: int) -> Iterator[tuple[InputRange, int, int]]:
        """The stored elements that elements ``[first, last)`` are made of: of each source, from, to."""
        numbers = ((number, first, last) for number in range(len(self.sources)))
        numbered = numbers if self.maps is None else self.maps.elements(first, last, math.prod(self.shape[1:]))
        yield from ((one, low, high) for number, low, high in numbered if (one := self.sources[number]) is not None)

    def repeated(self, first: int, last: int) -> Iterator[tuple[InputRange, InputRange, int, int]]:
        """A source, a copy that its input stores of it, and their stored elements, for elements ``[first, last)``."""
        for source, low, high in self.stored(first, last) if self.copies else ():
            yield from ((source, copy, low, high) for copy in self.copies if copy.input == source.input)

    def ranks(self) -> list[int] | None:
        """The rank of each expert's deltas of the matrices; None where some delta is not the product of two factors."""
        if any(source is not None for source in self.sources[1:]):
            return None
        size = math.prod((self.batch or (1, *self.shape))[1:])
        added = [one for each in self.factors for one in each or ()]
        if any(one.magnitude is not None or one.rows * one.columns != size for one in added):
            return None
        return [max((one.rank for one in each or ()), default=0) for each in self.factors]


#: A tensor, its elements ``[first, last)``, and whether its disposition is for them; else they are copied.
Span = tuple[PlannedTensor, int, int, bool]
