"""The inputs of a planned tensor: byte ranges of models, and the factors of adapters."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import structs

from svc_dist.checkpoint.adapters.adapter import Expert, OpenedModel
from svc_dist.checkpoint.adapters.factors import AdapterFactors
from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import PlanError, printable
from svc_dist.plan.quantised.slabs import Slab, codec_grain, slabs
from svc_dist.storage.base import FileIdentity
from svc_dist.storage.reading import ByteRange
from svc_dist.tensor_names import LayerRange


@dataclass(frozen=True)
class PlannedModel:
    """The base or an expert, and the identity of its files at planning.

    An expert is a model, an adapter to the base, or a model with an ``adapter`` to it. ``renames``: prefixes
    ``(from, to)`` of its tensors' names; the first that matches counts. ``hub``: the hub id by which the recipe names
    it, if any; its commit is part of the location. ``layers``: those that are used of it.
    """

    location: str
    files: tuple[FileIdentity, ...]
    renames: tuple[tuple[str, str], ...] = ()
    adapter: PlannedModel | None = None
    hub: str | None = None
    layers: LayerRange | None = None

    @property
    def label(self) -> str:
        """The hub id, or the location, of the model alone."""
        return self.hub or self.location

    @property
    def name(self) -> str:
        """As a recipe names it, with the layers that are used of it."""
        both = "+".join(one.label for one in (self, self.adapter) if one is not None)
        return both if self.layers is None else f"{both}[{self.layers.first}:{self.layers.last}]"


def every_location(models: Sequence[PlannedModel]) -> tuple[PlannedModel, ...]:
    """Every location that is read, in the order of ``InputRange.input``: the models, then their adapters."""
    return (*models, *(model.adapter for model in models if model.adapter is not None))


def model_of(
    opened: OpenedModel,
    renames: tuple[tuple[str, str], ...],
    hub_models: Mapping[str, str] = {},
    layers: LayerRange | None = None,
) -> PlannedModel:
    """The identity of a model, an adapter, or both. ``hub_models``: hub ids by location."""
    both = [
        PlannedModel(one.location, one.files, renames, hub=hub_models.get(one.location), layers=layers)
        for one in (opened.model, opened.adapter)
        if one is not None
    ]
    return both[0] if len(both) == 1 else dataclasses.replace(both[0], adapter=both[1])


class InputRange(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The bytes of a tensor in one of the inputs.

    ``parts``: the ranges that make up the tensor, in the order of its bytes, where the input does not store it whole.
    ``codec``: as that of a ``TensorSpec``; ``dtype`` is then what the codes are decoded to.
    """

    input: int
    file: str
    start: int
    end: int
    dtype: str
    parts: tuple[InputRange, ...] = ()
    codec: str | None = None

    def range(self, first: int, last: int) -> ByteRange:
        """The bytes of elements ``[first, last)`` of a tensor that is stored whole."""
        return ByteRange(self.file, self.start + bytes_of(self.dtype, first), self.start + bytes_of(self.dtype, last))

    def pieces(self, first: int, last: int) -> Iterator[tuple[InputRange, int, int]]:
        """The stored ranges that elements ``[first, last)`` lie in, each with the elements of it that are meant."""
        if not self.parts or self.codec is not None:
            yield self, first, last
            return
        position = 0
        for part in self.parts:
            count = (part.end - part.start) // bytes_of(part.dtype, 1)
            if max(first, position) < min(last, position + count):
                yield part, max(first - position, 0), min(last - position, count)
            position += count

    def reads(self, first: int, last: int) -> Iterator[ByteRange]:
        """The bytes from which elements ``[first, last)`` are made."""
        for piece, start, end in self.pieces(first, last):
            if piece.codec is None:
                yield piece.range(start, end)
            elif start < end:
                for slab in piece.slabs(start, end):
                    yield from slab.ranges

    def slabs(self, first: int, last: int) -> Iterator[Slab]:
        """The rows of matrices in codes that elements ``[first, last)`` lie in."""
        stored = tuple((part.file, part.start) for part in self.parts)
        return slabs(codec_of(self.codec or ""), stored, first, last)

    @property
    def is_coded(self) -> bool:
        """Whether it stores codes, whole or in some part."""
        return self.codec is not None or (bool(self.parts) and any(part.is_coded for part in self.parts))

    def decoded_to(self, dtype: str) -> InputRange:
        """The same with codes decoded to this dtype."""
        if self.dtype == dtype or not self.is_coded:
            return self
        count = (self.end - self.start) // bytes_of(self.dtype, 1)
        parts = self.parts if self.codec is not None else tuple(part.decoded_to(dtype) for part in self.parts)
        return structs.replace(self, dtype=dtype, end=self.start + bytes_of(dtype, count), parts=parts)

    @property
    def grain(self) -> int:
        """How many elements must stay together so that no code is read twice: rows of a block, or a matrix."""
        if self.codec is None:
            return math.lcm(*(part.grain for part in self.parts)) if self.parts else 1
        codec = codec_of(self.codec)
        return codec_grain(codec, bytes_of(self.dtype, math.prod(codec.shape)) < self.end - self.start)


class FactorRanges(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What an adapter adds to a tensor from element ``first`` on: to one matrix ``(rows, columns)``, or to ``experts``.

    That is ``scale * b @ a`` with ``a (r, columns)`` and ``b (rows, r)``, or where ``transposed`` its transpose with
    ``a (r, rows)`` and ``b (columns, r)``. Of several matrices, one after the other, number ``e`` has rows
    ``[e r, e r + r)`` of ``a``. ``lane = (e, E)``: the first matrix has columns ``e, e + E, ...`` of ``b`` as stored,
    the next one ``e + 1, ...``. ``magnitude``: of DoRA, the lengths of the merged weight's rows, of its columns where
    ``transposed``.
    """

    a: InputRange
    b: InputRange
    rank: int
    scale: float
    transposed: bool
    first: int
    rows: int
    columns: int
    experts: int = 1
    lane: tuple[int, int] = (0, 1)
    magnitude: InputRange | None = None

    @property
    def last(self) -> int:
        return self.first + self.experts * self.rows * self.columns

    def within(self, first: int, last: int) -> tuple[int, int]:
        """Those of elements ``[first, last)`` that this adds to: from, to; not in this order where there are none."""
        return max(first, self.first), min(last, self.last)

    def matrices(self, first: int, last: int) -> tuple[int, int]:
        """The matrices that some elements of this lie in: the first, and the one after the last."""
        size = self.rows * self.columns
        return (first - self.first) // size, -(-(last - self.first) // size)

    def rows_of_b(self, first: int, last: int) -> tuple[int, int]:
        """The rows of ``b`` that these elements need: all where it is transposed, or for several matrices."""
        number, end = self.matrices(first, last)
        if self.transposed:
            return 0, self.columns
        if end - number > 1:
            return 0, self.rows
        first, last = (element - self.first - number * self.rows * self.columns for element in (first, last))
        return first // self.columns, -(-last // self.columns)

    def ranges(self, first: int, last: int) -> tuple[ByteRange, ...]:
        """The bytes of ``a``, of ``b``, and of the magnitude if any, that these elements of the tensor need."""
        number, end = self.matrices(first, last)
        inner = self.rows if self.transposed else self.columns
        top, bottom = self.rows_of_b(first, last)
        width = self.rank * self.lane[1]
        needed = (
            self.a.range(number * self.rank * inner, end * self.rank * inner),
            self.b.range(top * width, bottom * width),
        )
        return needed if self.magnitude is None else (*needed, self.magnitude.range(top, bottom))

    @property
    def grain(self) -> int:
        """How many elements must stay together to know the lengths of DoRA: rows, or 0 for all; 1 without DoRA."""
        return 1 if self.magnitude is None else 0 if self.transposed else self.columns


#: What an adapter adds to a tensor, by rising elements; several where it adds to the matrices of a mixture's experts.
Added = tuple[FactorRanges, ...]


def inputs_of(
    spec: TensorSpec, base: Expert, experts: Sequence[Expert], models: Sequence[int], mapped: bool = False
) -> tuple[tuple[InputRange | None, ...], tuple[Added | None, ...], Added]:
    """The ``sources``, ``factors`` and ``base_factors`` of a planned tensor, of the models of these numbers (0: the
    base of the recipe): the base of the merge and its experts, or the one model that it is copied from.

    Where the base of the merge is an expert too, that has only what its adapter adds to it. ``mapped``: rows are
    matched by token, so that any of a model may be needed. Raises PlanError for an adapter beside another base.
    """
    count = sys.maxsize if mapped else math.prod(spec.shape)  # other rows of experts come last
    every = (base, *experts)
    adapters = _adapter_inputs(tuple(one.model is not None and one.adapter is not None for one in every))
    slots: list[InputRange | None] = []
    factors: list[Added | None] = []
    below: Added = ()
    for position, number in enumerate(models):
        model, again = every[number], position > 0 and number == models[0]
        stored = None if model.model is None else model.model.tensors.get(spec.name)
        saved = model.saved(spec.name)
        own, source = (stored, 0 if _is_below(base, model) else number) if saved is None else (saved, adapters[number])
        added = model.factors.get(spec.name)
        factors.append(None if added is None else tuple(_factors(adapters[number], one) for one in added))
        if own is None and models[0] != 0:  # an adapter to the base of the recipe, which is not that of this merge
            (slot,), _, below = inputs_of(spec, base, experts, (0,))
            slots.append(None if again else slot)
        else:
            slots.append(None if own is None or again else stored_range(source, own, count))
    if len(models) == 1:
        if slots[0] is not None and slots[0].is_coded:  # decoded as where all models are merged
            slots = list(inputs_of(spec, base, experts, (*models, *range(len(every))))[0][:1])
        own_factors, base_factors = (factors[0], below) if models[0] else (None, factors[0] or ())
        return tuple(as_decoded(slots)), () if own_factors is None else (own_factors,), base_factors
    if below:
        raise PlanError(
            f"{printable(spec.name)}: an adapter to {base.whole.location}, which has one itself, beside another base",
            "merge the adapters into their models with peft first", code="adapter-not-supported",
        )  # fmt: skip
    alone = models[0] in models[1:]
    return tuple(as_decoded(slots)), tuple(factors[1:]) if any(factors[1:]) else (), () if alone else factors[0] or ()


@functools.lru_cache(maxsize=2)
def _adapter_inputs(both: tuple[bool, ...]) -> tuple[int, ...]:
    """The number of the input that each model's adapter is: adapters of models come after all models."""
    last = len(both) - 1
    return tuple(last + sum(both[: number + 1]) if one else number for number, one in enumerate(both))


def _is_below(base: Expert, model: Expert) -> bool:
    """Whether an expert is stored as the model below the base's adapter: its ranges are read once for both."""
    below = None if base.adapter is None else base.model
    return below is not None and model.model is not None and model.model.location == below.location


def copies_of(stored: Sequence[tuple[int, TensorSpec]], sources: Sequence[InputRange | None]) -> tuple[InputRange, ...]:
    """The stored copies of a tensor, of those inputs that it is read from: as many elements as are read of it."""
    ends = {source.input: source.end - source.start for source in sources if source is not None}
    return tuple(
        InputRange(number, spec.file, spec.start, spec.start + ends[number], spec.dtype)
        for number, spec in stored
        if number in ends
    )


def stored_range(number: int, spec: TensorSpec, count: int = sys.maxsize) -> InputRange:
    """The first ``count`` elements of a tensor of input ``number``."""
    end = spec.end if count == sys.maxsize or count >= spec.numel else spec.start + bytes_of(spec.dtype, count)
    parts = tuple([stored_range(number, part) for part in spec.parts]) if spec.parts else ()
    return InputRange(number, spec.file, spec.start, end, spec.dtype, parts, spec.codec)


def as_decoded(slots: Sequence[InputRange | None]) -> Sequence[InputRange | None]:
    """The sources with the dtype to which codes are decoded.

    That is float32, which holds every product of code and scale; beside a source that is stored in 16 bits it is
    bfloat16, because such a model was trained from the decoded weights in it: what it did not change is then equal.
    """
    if not any(slot is not None and slot.is_coded for slot in slots):
        return slots
    narrow = any(slot is not None and not slot.is_coded and slot.dtype in ("BF16", "F16") for slot in slots)
    return [slot if slot is None else slot.decoded_to("BF16" if narrow else "F32") for slot in slots]


def _factors(number: int, stored: AdapterFactors) -> FactorRanges:
    a, b = (stored_range(number, spec, spec.numel) for spec in (stored.a, stored.b))
    return FactorRanges(
        a, b, stored.rank, stored.scale, stored.transposed, stored.first, stored.rows, stored.columns,
        stored.experts, stored.lane,
        None if stored.magnitude is None else stored_range(number, stored.magnitude, stored.magnitude.numel),
    )  # fmt: skip
