"""The inputs of a planned tensor: byte ranges of models, and the factors of adapters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from svc_dist.checkpoint.adapter import AdapterFactors, Expert, OpenedModel
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.reading import ByteRange


@dataclass(frozen=True)
class PlannedModel:
    """The base or an expert, and the identity of its files at planning.

    An expert is a model, an adapter to the base, or a model with an ``adapter`` to it. ``renames``: prefixes
    ``(from, to)`` of its tensors' names; the first that matches counts.
    """

    location: str
    files: tuple[FileIdentity, ...]
    renames: tuple[tuple[str, str], ...] = ()
    adapter: PlannedModel | None = None

    @property
    def name(self) -> str:
        """As a recipe names it."""
        return self.location if self.adapter is None else f"{self.location}+{self.adapter.location}"


def every_location(models: Sequence[PlannedModel]) -> tuple[PlannedModel, ...]:
    """Every location that is read, in the order of ``InputRange.input``: the models, then their adapters."""
    return (*models, *(model.adapter for model in models if model.adapter is not None))


def model_of(opened: OpenedModel, renames: tuple[tuple[str, str], ...]) -> PlannedModel:
    """The identity of a model, an adapter, or both."""
    both = [PlannedModel(one.location, one.files, renames) for one in (opened.model, opened.adapter) if one is not None]
    return both[0] if len(both) == 1 else dataclasses.replace(both[0], adapter=both[1])


@dataclass(frozen=True, slots=True)
class InputRange:
    """The bytes of a tensor in one of the inputs."""

    input: int
    file: str
    start: int
    end: int
    dtype: str

    def range(self, first: int, last: int) -> ByteRange:
        """The bytes of elements ``[first, last)``."""
        return ByteRange(self.file, self.start + bytes_of(self.dtype, first), self.start + bytes_of(self.dtype, last))


@dataclass(frozen=True, slots=True)
class FactorRanges:
    """What an adapter adds to a tensor ``(m, n)``: ``scale * left (m, r) @ right (r, n)``.

    ``transposed``: each of them is stored as its transpose.
    """

    left: InputRange
    right: InputRange
    rank: int
    scale: float
    transposed: bool

    def rows(self, first: int, last: int, columns: int) -> tuple[int, int]:
        """The rows of ``left`` that elements ``[first, last)`` need, as they are read: all where it is transposed."""
        if self.transposed:
            return 0, (self.left.end - self.left.start) // bytes_of(self.left.dtype, self.rank)
        return first // columns, -(-last // columns)

    def ranges(self, first: int, last: int, columns: int) -> tuple[ByteRange, ByteRange]:
        """The bytes of both factors that elements ``[first, last)`` need."""
        top, bottom = self.rows(first, last, columns)
        left = self.left.range(top * self.rank, bottom * self.rank)
        return left, ByteRange(self.right.file, self.right.start, self.right.end)


def inputs_of(
    spec: TensorSpec, base: Checkpoint, experts: Sequence[Expert], source: int | None = None
) -> tuple[tuple[InputRange | None, ...], tuple[FactorRanges | None, ...]]:
    """The ``sources`` and ``factors`` of a planned tensor: of all models, or of ``source`` alone (0: the base)."""
    count = math.prod(spec.shape)  # an expert may have more rows: they come last
    slots = [_slot(0, base.tensors[spec.name], count) if spec.name in base.tensors else None]
    factors: list[FactorRanges | None] = [None]
    last_adapter = len(experts)
    for number, expert in enumerate(experts, 1):
        adapter = number
        if expert.model is not None and expert.adapter is not None:
            last_adapter += 1
            adapter = last_adapter
        stored = None if expert.model is None else expert.model.tensors.get(spec.name)
        saved = expert.saved(spec.name)
        own, input_number = (stored, number) if saved is None else (saved, adapter)
        slots.append(None if own is None else _slot(input_number, own, count))
        factors.append(_factors(adapter, expert.factors.get(spec.name)))
    if source is not None:
        slots, factors = [slots[source] or slots[0]], [None, factors[source]]
    return tuple(slots), tuple(factors[1:]) if any(factors) else ()


def _slot(number: int, spec: TensorSpec, count: int) -> InputRange:
    return InputRange(number, spec.file, spec.start, spec.start + bytes_of(spec.dtype, count), spec.dtype)


def _factors(number: int, stored: AdapterFactors | None) -> FactorRanges | None:
    if stored is None:
        return None
    rank = stored.left.shape[0 if stored.transposed else 1]
    left, right = (_slot(number, spec, spec.numel) for spec in (stored.left, stored.right))
    return FactorRanges(left, right, rank, stored.scale, stored.transposed)
