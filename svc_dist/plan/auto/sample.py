"""Some rows of some matrices, in the base and in every expert: what a plan with ``auto`` shows of them.

The same models always give the same rows. At most ``_MATRICES`` matrices are looked at, spread over layers and kinds of
modules, and of each at most ``_ROWS`` rows and ``_ELEMENTS`` entries in ``_BLOCKS`` places.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from svc_dist.checkpoint.adapters.adapter import Expert
from svc_dist.checkpoint.adapters.factors import AdapterFactors
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.checkpoint.tensor_view import tensor_view
from svc_dist.errors import DamagedInputError, RecipeError
from svc_dist.linalg.threads import threads_fixed
from svc_dist.methods.auto.features import Features
from svc_dist.methods.auto.measured import SampledRows, measured
from svc_dist.plan.inputs import Added, FactorRanges, InputRange, PlannedModel, every_location, inputs_of
from svc_dist.plan.quantised.decoding import decoded_values
from svc_dist.plan.tensors.matrices import matrices
from svc_dist.plan.tensors.patterns import first_matches
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.storage.reading import ByteRange, MappedRanges, Source, map_ranges
from svc_dist.tensor_names import natural_key

_MATRICES = 16
_ROWS = 64
_ELEMENTS = 1 << 19  # entries of one matrix in one model: 1 MiB in 16 bits
_BLOCKS = 4
_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are spread evenly and meet no period of the layers


class _Rows(NamedTuple):
    """Rows ``[first, last)`` of a matrix with so many columns."""

    first: int
    last: int
    columns: int

    @property
    def elements(self) -> tuple[int, int]:
        return self.first * self.columns, self.last * self.columns


@dataclass(frozen=True)
class _Matrix:
    """A tensor whose rows are sampled: where each model has it, as in ``PlannedTensor``, and which rows."""

    spec: TensorSpec
    sources: tuple[InputRange | None, ...]
    factors: tuple[Added | None, ...]
    base_factors: Added
    blocks: tuple[_Rows, ...]

    def reads(self) -> Iterator[tuple[int, ByteRange]]:
        """The bytes that the rows need, each with the number of its input."""
        for block in self.blocks:
            first, last = block.elements
            for source in filter(None, self.sources):
                yield from ((source.input, one) for one in source.reads(first, last))
            for added in (*self.factors, self.base_factors):
                for one in added or ():
                    low, high = one.within(first, last)
                    yield from ((one.a.input, needed) for needed in (one.ranges(low, high) if low < high else ()))


def sampled_features(
    recipe: ResolvedRecipe, models: Sequence[PlannedModel], base: Expert, experts: Sequence[Expert]
) -> Features:
    """The features of a recipe's experts. Raises RecipeError where no matrix can be sampled, DamagedInputError naming
    the model and the tensor for NaN or Inf, StorageError."""
    chosen = _matrices(recipe, base, experts)
    inputs = every_location(models)
    reads: list[dict[ByteRange, None]] = [{} for _ in inputs]
    for matrix in chosen:
        for number, needed in matrix.reads():
            reads[number][needed] = None
    sources = [Source(one.location, one.files, recipe.access) for one in inputs]
    count = sum(one.end - one.start for each in reads for one in each)
    adapters = sum(one.model is None for one in experts)
    with threads_fixed(), map_ranges(sources, [list(each) for each in reads]) as reading:
        rows = (_sampled(one, reading.mapped, models) for one in chosen)
        return measured(rows, len(experts), adapters, count)


def _matrices(recipe: ResolvedRecipe, base: Expert, experts: Sequence[Expert]) -> list[_Matrix]:
    """The matrices to sample. Raises RecipeError where there is none."""
    names = sorted(base.whole.tensors, key=natural_key)
    rule_of, _ = first_matches(names, recipe.rules)
    kept = {number for number, rule in enumerate(recipe.rules) if rule.keep is not None}
    tensors = base.whole.tensors
    possible = [
        name for name in names if rule_of.get(name) not in kept and _is_shared(recipe, tensors[name], base, experts)
    ]
    everyone = tuple(range(len(experts) + 1))
    chosen: dict[str, _Matrix] = {}
    for number in itertools.count() if len(possible) > _MATRICES else range(len(possible)):
        place = number if len(possible) <= _MATRICES else int((number + 0.5) * _GOLDEN % 1 * len(possible))
        spec = tensors[possible[place]]
        if spec.name in chosen:
            continue
        sources, factors, base_factors = inputs_of(spec, base, experts, everyone)
        chosen[spec.name] = _Matrix(spec, tuple(sources), factors, base_factors, _blocks(spec))
        if len(chosen) == _MATRICES:
            break
    if not chosen:
        assert recipe.auto is not None
        raise RecipeError(
            f"{recipe.origin.at(recipe.auto.where)}: auto finds no matrix to look at that all models have in one shape",
            "name a merge method and a calibration",
            code="auto-refused",
        )
    return list(chosen.values())


def _is_shared(recipe: ResolvedRecipe, spec: TensorSpec, base: Expert, experts: Sequence[Expert]) -> bool:
    """Whether a tensor is a matrix that every expert has in the same shape, and some expert may have changed."""
    if len(spec.shape) < 2 or spec.dtype not in FLOAT_DTYPES or matrices(spec, recipe.embedding_patterns) is None:
        return False
    changed = False
    if not _are_rows(base.factors.get(spec.name, ()), spec):
        return False
    for expert in experts:
        own = expert.whole.tensors.get(spec.name)
        if own is None or own.shape != spec.shape or own.dtype not in FLOAT_DTYPES:
            return False
        added = expert.factors.get(spec.name, ())
        if not _are_rows(added, spec):
            return False
        changed = changed or bool(added) or expert.model is not None or expert.saved(spec.name) is not None
    return changed


def _are_rows(added: Sequence[AdapterFactors], spec: TensorSpec) -> bool:
    """Whether rows of what an adapter adds to a tensor can be formed by themselves: not those of DoRA, of mixtures."""
    return all(one.magnitude is None and one.experts == 1 and one.columns == _columns(spec) for one in added)


def _columns(spec: TensorSpec) -> int:
    """Entries of a row: of a convolution kernel ``(out, ...)``, all of an output."""
    batch = matrices(spec, ())
    return spec.shape[-1] if batch is None else batch[2]


def _blocks(spec: TensorSpec) -> tuple[_Rows, ...]:
    """The rows of a tensor that are sampled, evenly spread; all where they are few."""
    columns = _columns(spec)
    rows = spec.numel // columns
    wanted = max(1, min(_ROWS, _ELEMENTS // columns))
    if rows <= wanted:
        return (_Rows(0, rows, columns),)
    count = min(_BLOCKS, wanted)
    height = wanted // count
    starts = [number * (rows - height) // max(count - 1, 1) for number in range(count)]
    return tuple(_Rows(start, start + height, columns) for start in starts)


def _sampled(matrix: _Matrix, mapped: Sequence[MappedRanges], models: Sequence[PlannedModel]) -> SampledRows:
    """The sampled rows of a matrix in all models."""
    bases, deltas = [], []
    for block in matrix.blocks:
        shape = (block.last - block.first, block.columns)
        stored = [_values(matrix, source, block, mapped, models) for source in matrix.sources]
        first = stored[0]
        assert first is not None
        base = first.view(shape) + _added(matrix.base_factors, block, mapped)
        factors = matrix.factors or (None,) * (len(stored) - 1)
        bases.append(base)
        deltas.append(torch.stack([
            (torch.zeros(shape, dtype=torch.float64) if own is None else own.view(shape) - base)
            + _added(added or (), block, mapped)
            for own, added in zip(stored[1:], factors, strict=True)
        ]))  # fmt: skip
    result = SampledRows(torch.cat(bases), torch.cat(deltas, dim=1), matrix.spec.numel)
    for model, values in zip(models, (result.base, *result.deltas), strict=True):  # of the base, all deltas would
        if not bool(values.isfinite().all()):
            raise DamagedInputError(
                f"{model.name}: the tensor {matrix.spec.name!r} holds NaN or Inf",
                "use another checkpoint of this model",
            )
    return result


def _values(
    matrix: _Matrix,
    source: InputRange | None,
    block: _Rows,
    mapped: Sequence[MappedRanges],
    models: Sequence[PlannedModel],
) -> Tensor | None:
    """The entries of a block as a model stores them, flat in float64; None for those of the base."""
    if source is None:
        return None
    pieces: list[Tensor] = []
    for piece, start, end in source.pieces(*block.elements):
        ranges = mapped[piece.input]
        if piece.codec is None:
            pieces.append(tensor_view(ranges.view(piece.range(start, end)), piece.dtype).double())
        else:
            where = f"{every_location(models)[piece.input].location}/{piece.file}: tensor {matrix.spec.name!r}"
            pieces += [one.double() for one in decoded_values(piece, start, end, ranges, where)]
    return torch.cat(pieces)


def _added(added: Sequence[FactorRanges], block: _Rows, mapped: Sequence[MappedRanges]) -> Tensor:
    """What an adapter adds to the rows of a block."""
    total = torch.zeros(block.last - block.first, block.columns, dtype=torch.float64)
    for one in added:
        low, high = one.within(*block.elements)
        if low >= high:
            continue
        a_range, b_range = one.ranges(low, high)[:2]
        a = tensor_view(mapped[one.a.input].view(a_range), one.a.dtype).double().view(one.rank, -1)
        b = tensor_view(mapped[one.b.input].view(b_range), one.b.dtype).double().view(-1, one.rank * one.lane[1])
        b = b[:, one.lane[0] :: one.lane[1]]
        first, last = ((element - one.first) // one.columns for element in (low, high))
        top = one.rows_of_b(low, high)[0]
        rows = (a.T[first:last] @ b.T) if one.transposed else (b[first - top : last - top] @ a)
        start = low // block.columns - block.first
        total[start : start + len(rows)] += rows * one.scale
    return total
