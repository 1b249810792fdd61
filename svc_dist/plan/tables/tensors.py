"""The tensors of a plan as it is written: what many share once, and of each its name and where its bytes lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import structs

from svc_dist.plan.inputs import InputRange
from svc_dist.plan.tensor import PlannedTensor


class TensorRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One tensor: its ``name``, the number of its ``kind``, its ``shard`` and the byte there at which it starts.

    ``places``: of each stored range of its sources, the number of its file and the byte there at which it starts; of a
    source in parts, its own first.
    """

    name: str
    kind: int
    shard: int
    start: int
    places: tuple[int, ...]


class TensorTable(msgspec.Struct, frozen=True):
    """The tensors of a plan. ``kinds``: tensors without name and place, from byte 0; ``files``: by number."""

    files: tuple[str, ...]
    kinds: tuple[PlannedTensor, ...]
    rows: tuple[TensorRow, ...]


def tensor_table(tensors: Sequence[PlannedTensor]) -> TensorTable:
    """The table of these tensors: files and kinds in the order in which tensors first have them."""
    files: dict[str, int] = {}
    kinds: dict[PlannedTensor, int] = {}
    ranges: dict[InputRange, InputRange] = {}  # one object for all that are equal, without their places
    rows: list[TensorRow] = []
    for tensor in tensors:
        places: list[int] = []
        sources = tuple([source and _without_place(source, places, files, ranges) for source in tensor.sources])
        kind = structs.replace(tensor, name="", shard=0, start=0, end=tensor.end - tensor.start, sources=sources)
        number = kinds.setdefault(kind, len(kinds))
        rows.append(TensorRow(tensor.name, number, tensor.shard, tensor.start, tuple(places)))
    return TensorTable(tuple(files), tuple(kinds), tuple(rows))


def planned_tensors(table: TensorTable) -> tuple[PlannedTensor, ...]:
    """The tensors of a table. Raises ValueError for rows that refer to what it does not have."""
    files, kinds = table.files, table.kinds
    tensors: list[PlannedTensor] = []
    for row in table.rows:
        if not 0 <= row.kind < len(kinds):
            raise ValueError(f"the tensor {row.name!r} has no kind")
        kind, places = kinds[row.kind], iter(row.places)
        try:
            sources = tuple([source and _at(source, places, files) for source in kind.sources])
        except (StopIteration, IndexError):
            raise ValueError(f"the tensor {row.name!r} has a source without a place") from None
        end = row.start + kind.end
        tensors.append(structs.replace(kind, name=row.name, shard=row.shard, start=row.start, end=end, sources=sources))
    return tuple(tensors)


def _without_place(
    source: InputRange, places: list[int], files: dict[str, int], ranges: dict[InputRange, InputRange]
) -> InputRange:
    """A range from byte 0 of no file. Its place, and those of its parts, are added to ``places``."""
    file = files.get(source.file)
    if file is None:
        file = files[source.file] = len(files)
    places += file, source.start
    parts = source.parts
    if parts:
        parts = tuple([_without_place(part, places, files, ranges) for part in parts])
    plain = InputRange(source.input, "", 0, source.end - source.start, source.dtype, parts, source.codec)
    return ranges.setdefault(plain, plain)


def _at(source: InputRange, places: Iterator[int], files: Sequence[str]) -> InputRange:
    """The range at the next of these places, with its parts at those that follow."""
    file, start = next(places), next(places)
    if file < 0:
        raise IndexError(file)
    parts = source.parts
    if parts:
        parts = tuple([_at(part, places, files) for part in parts])
    return InputRange(source.input, files[file], start, start + source.end, source.dtype, parts, source.codec)
