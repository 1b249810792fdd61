"""The plan of a merge: every output shard, the position of every tensor in it, every unit of work. JSON in and out."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from svc_dist.checkpoint.header import render_header
from svc_dist.checkpoint.layout import parts
from svc_dist.checkpoint.weight_files import ADAPTER, names_like, stored_name
from svc_dist.errors import Warned
from svc_dist.plan.adapters.factor import Factor
from svc_dist.plan.files.sidecars import LeftOut, Sidecar
from svc_dist.plan.inputs import Added, InputRange, PlannedModel, every_location
from svc_dist.plan.settings import Settings
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.plan.tensors.matrices import Batch
from svc_dist.plan.vocabulary.added_tokens import AddedToken
from svc_dist.plan.vocabulary.row_maps import RowMaps
from svc_dist.storage.reading import ByteRange
from svc_dist.storage.writing.base import ShardFile

_WORK_PER_BYTE = 12.0  # operations that take as long as moving a byte; for ordering and progress only


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One output tensor: its bytes ``[start, end)`` of a shard, its disposition, and its inputs (base first).

    ``disposition``: a number in each result's list. ``batch``: ``(count, m, n)`` for matrices. ``turned``: these are
    stored as their transposes, which some step does not merge to the transposes of results. ``sources``: of a copied
    tensor the one model that it comes from, of a merged one all models, None for an expert that has the base's.
    ``factors``: what an adapter adds to each expert (or to the copied tensor), empty where no adapter adds anything.
    ``base_factors``: what the base's own adapter adds. ``merged_rows``: how many first rows are merged (None: all); the
    others are model ``rest``'s. ``copies``: of the sources, stored under other names; they must be equal. ``tied_to``:
    the tensor that it equals, or in an adapter the one that it is for; ``factor``: one of what is added to that.
    ``maps``: where the sources store the merged rows, None where each has one number in all.
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

    @property
    def dense(self) -> PlannedTensor:
        """Of a factor: the tensor of the base that the adapter changes, with the same inputs."""
        return self if self.factor is None else replace(self, shape=self.factor.shape, factor=None)

    def spans(self, first: int, last: int) -> list[Span]:
        """Elements ``[first, last)`` in order: those that the tensor's disposition is for, then those of ``rest``."""
        if self.merged_rows is None:
            return [(self, first, last, True)]
        end = self.merged_rows * math.prod(self.shape[1:])
        cut = min(max(first, end), last)
        sources = self.sources[self.rest : self.rest + 1]
        copies = tuple(copy for copy in self.copies if any(one and one.input == copy.input for one in sources))
        mine = self.base_factors if self.rest == 0 else ()
        copied = replace(
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


@dataclass(frozen=True, slots=True)
class Unit:
    """One contiguous range ``[start, end)`` of a shard: the pieces ``(tensor, first element, last element)`` in it.

    ``memory``: the peak of anonymous memory in bytes.
    """

    id: str
    shard: int
    start: int
    end: int
    pieces: tuple[tuple[int, int, int], ...]
    bytes_in: int
    bytes_out: int
    flops: float
    memory: int

    @property
    def work(self) -> float:
        """Estimated work in operations, for ordering and for progress."""
        return self.flops + _WORK_PER_BYTE * (self.bytes_in + self.bytes_out)


@dataclass(frozen=True)
class Result:
    """One of a plan's results: its folder inside OUTPUT ("" for OUTPUT itself) and its dispositions by number."""

    path: str
    dispositions: tuple[Disposition, ...]


@dataclass(frozen=True)
class Plan:
    """The plan of a merge; the same inputs always give the same plan.

    ``results``: at least one. All results have the same shards, each in its own folder: ``shards`` lists those of the
    first result, then those of the next. A unit writes its range in each result. Every result gets the ``sidecars``,
    and none gets the files ``left_out``. ``chat_template``: in Jinja, it replaces the tokenizer's. ``stages``: the
    recipes, with names, that make the models ``stage://NAME``. ``adapter``: ``adapter_config.json`` of such results.
    """

    fingerprint: str
    recipe: dict[str, Any]
    settings: Settings
    models: tuple[PlannedModel, ...]
    results: tuple[Result, ...]
    shards: tuple[ShardFile, ...]
    tensors: tuple[PlannedTensor, ...]
    not_written: tuple[tuple[str, str], ...]
    units: tuple[Unit, ...]
    warnings: tuple[Warned, ...]
    methods: dict[str, int]
    sidecars: tuple[Sidecar, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    chat_template: str | None = None
    stages: tuple[dict[str, Any], ...] = ()
    adapter: dict[str, Any] | None = None
    added_tokens: tuple[AddedToken, ...] = ()

    def dispositions(self, tensor: PlannedTensor) -> list[Disposition]:
        """A tensor's disposition in each result."""
        return [result.dispositions[tensor.disposition] for result in self.results]

    @property
    def count(self) -> int:
        """Shards of one result."""
        return len(self.shards) // len(self.results)

    def shards_of(self, number: int) -> list[int]:
        """The shards with this number, ``[0, count)``, one for each result."""
        return [result * self.count + number for result in range(len(self.results))]

    def shard_file(self, shard: int) -> str:
        """A shard's name in the folder of its result; with the sub-folder of a module, if it is of one."""
        path = self.results[shard // self.count].path
        return self.shards[shard].file.removeprefix(f"{path}/") if path else self.shards[shard].file

    @property
    def index_file(self) -> str:
        """The name of the file that is written last in the folder of each result: of the index, or of an adapter's
        configuration."""
        if self.adapter is not None:
            return ADAPTER.index
        return names_like([self.shard_file(0)], None).index

    @property
    def bytes_in(self) -> int:
        return sum(unit.bytes_in for unit in self.units)

    @property
    def bytes_out(self) -> int:
        return sum(unit.bytes_out for unit in self.units)

    @property
    def tensor_bytes(self) -> int:
        """The index's ``total_size``."""
        return sum(tensor.end - tensor.start for tensor in self.indexed)

    @functools.cached_property
    def indexed(self) -> tuple[PlannedTensor, ...]:
        """The tensors that the index lists: all but those of modules in sub-folders."""
        names = [self.shard_file(number) for number in range(self.count)]
        return tuple(one for one in self.tensors if stored_name(one.name, names[one.shard]) == one.name)

    @functools.cached_property
    def shard_tensors(self) -> tuple[tuple[PlannedTensor, ...], ...]:
        """The tensors of each shard in order of their bytes."""
        groups: list[list[PlannedTensor]] = [[] for _ in range(self.count)]
        for tensor in self.tensors:
            groups[tensor.shard].append(tensor)
        return tuple(tuple(group) for group in groups) * len(self.results)

    @functools.cached_property
    def parts(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """For each unit the number of its first part in its shard's upload, and the sizes of its parts."""
        next_part = [1] * self.count
        numbered: dict[str, tuple[int, tuple[int, ...]]] = {}
        for unit in self.units:
            sizes = tuple(parts(unit.end - unit.start, self.shards[unit.shard].size))
            numbered[unit.id] = (next_part[unit.shard], sizes)
            next_part[unit.shard] += len(sizes)
        return numbered

    @functools.cached_property
    def joins(self) -> bool:
        """Whether units lay parts or rows of inputs, or the base with its adapter, in scratch space."""
        laid = (
            one.maps or one.base_factors or any(each and each.parts for each in one.sources) for one in self.tensors
        )
        return any(laid)

    @functools.cached_property
    def unit(self) -> dict[str, Unit]:
        return {unit.id: unit for unit in self.units}

    @functools.cached_property
    def inputs(self) -> tuple[PlannedModel, ...]:
        """Every location that is read: the models, then their adapters."""
        return every_location(self.models)

    def spans(self, unit: Unit) -> Iterator[Span]:
        """The spans of elements that a unit writes, in order."""
        for number, first, last in unit.pieces:
            yield from self.tensors[number].spans(first, last)

    def reads(self, unit: Unit) -> list[list[ByteRange]]:
        """The ranges of each input's files that a unit reads."""
        ranges: list[list[ByteRange]] = [[] for _ in self.inputs]
        for tensor, first, last in unit.pieces:
            for number, bytes_read in self.tensors[tensor].reads(first, last):
                ranges[number].append(bytes_read)
        return ranges

    def header(self, shard: int) -> bytes:
        """The prefix and the JSON header of one shard."""
        file = self.shard_file(shard)
        return render_header((stored_name(one.name, file), one.dtype, one.shape) for one in self.shard_tensors[shard])

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Raises ValueError naming the field that is damaged."""
        return _DECODER.decode(text)


_DECODER = msgspec.json.Decoder(Plan)  # made at import: msgspec crashes where threads decode a type for the first time
