"""The plan of a merge: every output shard, the position of every tensor in it, every unit of work. JSON in and out."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType, structs

from svc_dist.checkpoint.formats.written import WrittenPart
from svc_dist.checkpoint.header import render_header
from svc_dist.checkpoint.layout import parts
from svc_dist.checkpoint.weight_files import ADAPTER, names_like, stored_name
from svc_dist.errors import Warned
from svc_dist.methods.auto.choice import AutoChoice
from svc_dist.methods.calibration import chain
from svc_dist.notebook import table
from svc_dist.plan.files.sidecars import LeftOut, Sidecar
from svc_dist.plan.inputs import PlannedModel, every_location
from svc_dist.plan.settings import Settings
from svc_dist.plan.tables.collection import collection_paused
from svc_dist.plan.tables.tensors import TensorTable, planned_tensors, tensor_table
from svc_dist.plan.tensor import PlannedTensor, Span
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.plan.vocabulary.added_tokens import AddedToken
from svc_dist.sizes import counted, format_size
from svc_dist.storage.reading import ByteRange
from svc_dist.storage.writing.base import ShardFile

_WORK_PER_BYTE = 12.0  # operations that take as long as moving a byte; for ordering and progress only


class Unit(msgspec.Struct, frozen=True, gc=False, array_like=True):
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
    and none gets the files ``left_out``. ``chat_template``: in Jinja, it replaces the tokenizer's. ``documents``: the
    recipes, with names, that make the models ``document://NAME``. ``adapter``: ``adapter_config.json`` of such results.
    ``auto``: what ``auto`` in the recipe chose, and why.
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
    documents: tuple[dict[str, Any], ...] = ()
    adapter: dict[str, Any] | None = None
    added_tokens: tuple[AddedToken, ...] = ()
    auto: AutoChoice | None = None

    def __repr__(self) -> str:
        return f"<Plan: {counted(len(self.models) - 1, 'expert')} into {self.models[0].name}, {self._sizes}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: models, sizes, what becomes of the tensors, and warnings."""
        largest, settings = max(unit.memory for unit in self.units), self.settings
        rows = [("base" if number == 0 else f"expert {number}", model.name) for number, model in enumerate(self.models)]
        rows += [
            ("writes", self._sizes),
            ("reads", format_size(self.bytes_in)),
            ("memory of a unit", f"at most {format_size(largest)}"),
            ("planned for", f"{settings.device}, precision {settings.precision}"),
            ("fingerprint", self.fingerprint[:16]),
        ]
        if self.auto is not None:
            rows.append(("auto chose", f"{self.auto.what}, {self.auto.why}"))
        warnings = [table.paragraph(f"warning: {warning}") for warning in self.warnings]
        return table.block("Plan", table.fields(rows), *map(self._became, self.results), *warnings)

    @property
    def _sizes(self) -> str:
        tensors, shards = counted(len(self.tensors), "tensor"), counted(len(self.shards), "shard")
        return f"{tensors} in {shards}, {format_size(self.bytes_out)}, {counted(len(self.units), 'unit')}"

    def _became(self, result: Result) -> str:
        """A table of what becomes of how many tensors in a result."""
        counts = Counter(tensor.disposition for tensor in self.tensors)
        rows = []
        for number, one in enumerate(result.dispositions):
            steps = "".join(f", calibrated by {name}" for name in chain.names(one.calibration))
            rows.append((counts[number], f"merged by {one.method}{steps}" if one.method else one.kind, one.reason))
        return table.paragraph(result.path) + table.grid(("tensors", "become", "because"), rows)

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
    def shard_units(self) -> tuple[tuple[Unit, ...], ...]:
        """The units of each shard number in order of their ranges."""
        groups: list[list[Unit]] = [[] for _ in range(self.count)]
        for unit in self.units:
            groups[unit.shard].append(unit)
        return tuple(map(tuple, groups))

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
        return render_header((stored_name(one.name, file), one.dtype, one.shape) for one in self.written(shard))

    def written(self, shard: int) -> Iterator[WrittenPart]:
        """The tensors in one shard in order of their bytes: of a weight in codes, these and their companions."""
        return (part for tensor in self.shard_tensors[shard] for part in tensor.written)

    @functools.cached_property
    def table(self) -> TensorTable:
        """The tensors as they are written."""
        return tensor_table(self.tensors)

    def identified(self, fingerprint: str) -> Plan:
        """The same with its fingerprint."""
        return _with_table(replace(self, fingerprint=fingerprint), self.table)

    def to_json(self) -> str:
        return msgspec.json.encode(self.recorded).decode()

    @property
    def recorded(self) -> msgspec.Struct:
        """The plan as JSON has it: with a table in place of its tensors."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "tensors"}
        values["auto"] = UNSET if self.auto is None else self.auto
        return _Written(tensors=self.table, **values)

    @classmethod
    @collection_paused()
    def from_json(cls, text: str | bytes) -> Plan:
        """Raises ValueError naming the field that is damaged."""
        written = _DECODER.decode(text)
        values = structs.asdict(written)
        auto = None if values["auto"] is UNSET else values["auto"]
        tensors = planned_tensors(values["tensors"])
        return _with_table(cls(**values | {"tensors": tensors, "auto": auto}), values["tensors"])


def _with_table(plan: Plan, table: TensorTable) -> Plan:
    """The plan, whose table of tensors is known already."""
    plan.__dict__["table"] = table
    return plan


#: Plans of recipes without ``auto`` do not mention it, so that they are what earlier releases wrote.
_TYPES = {**get_type_hints(Plan), "tensors": TensorTable, "auto": AutoChoice | UnsetType}
_DEFAULTS = {one.name: one.default for one in fields(Plan) if one.default is not MISSING} | {"auto": UNSET}
_Written = msgspec.defstruct(
    "_Written",
    [
        (one.name, _TYPES[one.name], _DEFAULTS[one.name]) if one.name in _DEFAULTS else (one.name, _TYPES[one.name])
        for one in fields(Plan)
    ],
)
# Made once, by the thread that imports this: msgspec crashes where several threads decode a type for the first time.
_DECODER = msgspec.json.Decoder(_Written)
