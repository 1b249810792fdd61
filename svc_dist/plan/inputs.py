"""Where a planned tensor's inputs lie: byte ranges of models, and the factors of adapters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from svc_dist.checkpoint.adapter import Expert, Opened
from svc_dist.checkpoint.adapter import Factors as StoredFactors
from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.reading import ByteRange


@dataclass(frozen=True)
class Model:
    """The base or an expert, and who its files were when the plan was made.

    An expert is a model or an adapter to the base; or a model with an ``adapter`` to it. ``renames``: prefixes
    ``(from, to)`` of its tensors' names; the first that fits counts.
    """

    location: str
    files: tuple[FileIdentity, ...]
    renames: tuple[tuple[str, str], ...] = ()
    adapter: Model | None = None

    @property
    def name(self) -> str:
        """As a recipe names it."""
        return self.location if self.adapter is None else f"{self.location}+{self.adapter.location}"


def every_location(models: Sequence[Model]) -> tuple[Model, ...]:
    """The models, then the adapters that models have: every location that is read, in the order of ``Slot.input``."""
    return (*models, *(model.adapter for model in models if model.adapter is not None))


def model_of(opened: Opened, renames: tuple[tuple[str, str], ...]) -> Model:
    """Who the files of a model, an adapter, or both are."""
    parts = [Model(part.location, part.files, renames) for part in (opened.model, opened.adapter) if part is not None]
    return parts[0] if len(parts) == 1 else dataclasses.replace(parts[0], adapter=parts[1])


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one of the inputs holds a tensor."""

    input: int
    file: str
    start: int
    end: int
    dtype: str

    def part(self, first: int, last: int) -> ByteRange:
        """The bytes of elements ``[first, last)``."""
        return ByteRange(self.file, self.start + bytes_of(self.dtype, first), self.start + bytes_of(self.dtype, last))


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to a tensor ``(m, n)``: ``scale * left (m, r) @ right (r, n)``.

    ``transposed``: each of them is stored as its transpose.
    """

    left: Slot
    right: Slot
    rank: int
    scale: float
    transposed: bool

    def rows(self, first: int, last: int, columns: int) -> tuple[int, int]:
        """The rows of ``left`` that elements ``[first, last)`` need, as they are read: all where it is transposed."""
        if self.transposed:
            return 0, (self.left.end - self.left.start) // bytes_of(self.left.dtype, self.rank)
        return first // columns, -(-last // columns)

    def parts(self, first: int, last: int, columns: int) -> tuple[ByteRange, ByteRange]:
        """The bytes of both factors that elements ``[first, last)`` need."""
        top, bottom = self.rows(first, last, columns)
        left = self.left.part(top * self.rank, bottom * self.rank)
        return left, ByteRange(self.right.file, self.right.start, self.right.end)


#: What a tensor is made from: of the base and of each expert the slot, None where it is the base's; and what an adapter
#: adds to each expert, empty where none adds anything.
Held = tuple[tuple[Slot | None, ...], tuple[Factors | None, ...]]


def held(spec: TensorSpec, base: Checkpoint, experts: Sequence[Expert], source: int | None = None) -> Held:
    """Where what makes up a tensor of this name and shape lies: in all models, or only in ``source`` (0: the base)."""
    count = math.prod(spec.shape)  # an expert may hold more rows: they come last
    found: list[tuple[Slot | None, Factors | None]] = [(None, None)]
    if spec.name in base.tensors:
        found[0] = _slot(0, base.tensors[spec.name], count), None
    beside = len(experts)
    for number, expert in enumerate(experts, 1):
        adapter = number
        if expert.model is not None and expert.adapter is not None:
            beside += 1
            adapter = beside
        saved, stored = expert.saved(spec.name), expert.stored(spec.name)
        own = (adapter, saved) if saved is not None else (number, stored)
        factors = _factors(adapter, expert.factors.get(spec.name))
        found.append((None if own[1] is None else _slot(own[0], own[1], count), factors))
    if source is not None:
        slot, factors = found[source]
        found = [(found[0][0] if slot is None else slot, factors)]
    slots, all_factors = zip(*found, strict=True)
    changes = all_factors if source is not None else all_factors[1:]
    return slots, changes if any(changes) else ()


def _slot(number: int, spec: TensorSpec, count: int) -> Slot:
    return Slot(number, spec.file, spec.start, spec.start + bytes_of(spec.dtype, count), spec.dtype)


def _factors(number: int, found: StoredFactors | None) -> Factors | None:
    if found is None:
        return None
    rank = found.left.shape[0 if found.transposed else 1]
    left, right = (_slot(number, spec, spec.numel) for spec in (found.left, found.right))
    return Factors(left, right, rank, found.scale, found.transposed)
