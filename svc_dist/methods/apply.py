"""A merge method and a calibration applied to the deltas of one tensor, for one or more results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svc_dist.linalg.svd import leading_values
from svc_dist.methods.batches.groups import groups
from svc_dist.methods.calibration import chain
from svc_dist.methods.chunking import chunks
from svc_dist.methods.conditions.difference import Differing
from svc_dist.methods.deltas import Copy, TaskDeltas
from svc_dist.methods.elementwise.plain.pieces import cutter
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.merged import TOP, Merged
from svc_dist.methods.method import Method, Statistics, grouped
from svc_dist.methods.registry import METHODS
from svc_dist.methods.spectral.cores import Cores, cores_of


class MergedChunk(NamedTuple):
    """The merged delta ``M`` of elements ``[start, end)`` of a flattened tensor, and the deltas it was made from.

    ``M`` is flat, in the compute dtype, or of low rank and still in its factors; None stands for exactly zero (every
    expert equals the base there), so that the caller can pass the base through bit for bit; ``Copy`` for an expert's
    own entries.
    """

    start: int
    end: int
    merged: Tensor | LowRank | Copy | None
    deltas: TaskDeltas


class ResultParameters(NamedTuple):
    """One result: complete parameters of the method without ``lambda``, and of a calibration with its ``method``."""

    parameters: Mapping[str, Any]
    calibration: Mapping[str, Any] | None = None


def merged_chunks(
    deltas: TaskDeltas,
    method: str,
    results: Sequence[ResultParameters],
    batch: tuple[int, int, int] | None = None,
    summaries: Sequence[list[dict[str, Any]]] = (),
    turned: bool = False,
    differing: Differing | None = None,
    stay: int = 0,
) -> Iterator[tuple[int, MergedChunk]]:
    """The merged deltas of a tensor, chunk after chunk: of each result in order, each with the result's index.

    ``batch``: ``(count, m, n)`` where the tensor is a batch of matrices: spectral methods and calibrations work on
    those, one by one. Each is one chunk then, and a summary of it is appended to its result's ``summaries``.
    ``turned``: the matrices are stored as their transposes ``(n, m)``; what tells the sides apart gets them turned, and
    the result is turned back. ``differing``: which results merge which blocks, by default all of them all; a block is
    a matrix where the tensor is a batch of several. ``stay``: how many inputs of a matrix, base first, lie on the
    device while it is merged; the others are sent there each time they are read. Raises NumericsError.
    """
    chosen = METHODS[method]
    differing = differing or Differing(deltas, [None] * len(results), max(deltas.numel, 1))
    tensor = _Tensor(deltas, method, results, batch, summaries, turned, differing, stay)
    by_chunk: list[int] = []
    by_matrix: dict[bool, list[int]] = {}  # whether they are turned
    for index, one in enumerate(results):
        tells_sides = turned and (chosen.tells_sides or _tells_sides(one))
        if batch is not None and (chosen.family == "spectral" or one.calibration is not None or tells_sides):
            by_matrix.setdefault(tells_sides, []).append(index)
        else:
            by_chunk.append(index)
    for turn, indices in by_matrix.items():
        yield from tensor.matrices(turn, indices)
    if by_chunk:
        sets = grouped([results[index].parameters for index in by_chunk])
        sets = [(parameters, [by_chunk[position] for position in positions]) for parameters, positions in sets]
        yield from _elementwise_chunks(tensor.deltas, chosen, sets, tensor.statistics, differing)


@dataclass
class _Tensor:
    """A tensor whose results merge matrices; see ``merged_chunks`` for what it is made of."""

    given: TaskDeltas
    method: str
    results: Sequence[ResultParameters]
    batch: tuple[int, int, int] | None
    summaries: Sequence[list[dict[str, Any]]]
    turned: bool
    differing: Differing
    stay: int

    def __post_init__(self) -> None:
        self.chosen = METHODS[self.method]
        whole = self.stay and self.batch is not None and self.batch[0] == 1
        self.deltas = self.given.resident(self.stay) if whole else self.given  # a first pass finds it on the device
        self.statistics = Statistics(self.deltas, self.chosen)
        self.wide = Statistics(in_matrix_precision(self.deltas, self.chosen), self.chosen)

    def matrices(self, turn: bool, indices: Sequence[int]) -> Iterator[tuple[int, MergedChunk]]:
        """The results ``indices`` matrix by matrix; ``turn``: these get each one turned."""
        assert self.batch is not None
        count, rows, columns = self.batch
        stored = (count, columns, rows) if self.turned else self.batch
        size = rows * columns
        for first, number, group in groups(self.deltas, stored, self.stay):
            begin, end = first * size, (first + number) * size
            merges = self._merges(first, range(begin, end, size), stored)
            together = None
            if self.stay and number > 1 and not self.turned and len(self.results) == 1 and all(map(all, merges)):
                together = self._together(group.stacked((number, rows, columns)))
            if together is not None:
                yield indices[0], MergedChunk(begin, end, together.reshape(-1), group)
            else:
                for at, of_matrix in enumerate(merges):
                    matrix = group.matrix(at, (number, *stored[1:])) if self.stay else group.matrix(first + at, stored)
                    yield from self._matrix(matrix, begin + at * size, turn, indices, of_matrix)
                    del matrix
            del together, group  # before the next one is sent

    def _merges(self, first: int, starts: range, stored: tuple[int, int, int]) -> list[list[bool]]:
        """For each matrix that begins at one of ``starts``, which results merge it: none where nothing differs."""
        merges = [self.differing.merges(start) for start in starts]
        for at, of_matrix in enumerate(merges):
            if any(of_matrix) and self.given.matrix(first + at, stored).all_zero():
                merges[at] = [False] * len(self.results)
        return merges

    def _together(self, deltas: TaskDeltas) -> Tensor | None:
        """The merged deltas of ``(b, m, n)`` on a device; None where they are merged one by one."""
        from svc_dist.methods.batches.merged import merged_batch

        (result,) = self.results
        found = merged_batch(deltas, self.method, result.parameters, result.calibration)
        if found is None:
            return None
        if self._summarised([0]):
            self.summaries[0].extend(found[1])
        return found[0]

    def _matrix(
        self, matrix: TaskDeltas, start: int, turn: bool, indices: Sequence[int], merges: Sequence[bool]
    ) -> Iterator[tuple[int, MergedChunk]]:
        """One matrix, whose first element is ``start``, in each of the results ``indices``."""
        end = start + matrix.numel
        yield from ((index, MergedChunk(start, end, None, matrix)) for index in indices if not merges[index])
        merging = [index for index in indices if merges[index]]
        if not merging:
            return
        for position, merged in merged_matrices(
            matrix.transposed() if turn else matrix,
            self.chosen,
            [self.results[index] for index in merging],
            [self.summaries[index] for index in merging] if self._summarised(indices) else (),
            self.statistics,
            self.wide,
            turn,
        ):
            if isinstance(merged, LowRank):
                flat: Tensor | LowRank = merged.transposed() if turn else merged
            else:
                flat = (merged.T if turn else merged).reshape(-1)
            del merged
            yield merging[position], MergedChunk(start, end, flat, matrix)
            del flat  # before the next one is made

    def _summarised(self, indices: Sequence[int]) -> bool:
        calibrated = any(self.results[index].calibration is not None for index in indices)
        return bool(self.summaries) and (self.chosen.family == "spectral" or calibrated)


def _tells_sides(result: ResultParameters) -> bool:
    calibration = chain.declared(chain.names(result.calibration))
    return calibration is not None and calibration.tells_sides


def _elementwise_chunks(
    deltas: TaskDeltas,
    method: Method,
    sets: Sequence[tuple[Mapping[str, Any], list[int]]],
    statistics: Statistics,
    differing: Differing,
) -> Iterator[tuple[int, MergedChunk]]:
    """Each chunk, for each distinct set of parameters, once for each result that the set is listed with."""
    compute = method.load()
    zero = method.zero == "tensor" and deltas.all_zero()
    cut = cutter(deltas)
    for first, last in differing:
        merges = differing.merges(first)
        for begin, stop in chunks(last - first, deltas.row, method.whole_rows, deltas.grain):
            start, end = first + begin, first + stop
            chunk = cut(start, end)
            passes = chunk.all_zero() if method.zero == "chunk" else zero
            for parameters, indices in sets:
                needed = not passes and any(merges[index] for index in indices)
                merged = compute(chunk, **parameters, **statistics.of(parameters)) if needed else None
                for index in indices:
                    yield index, MergedChunk(start, end, merged if merges[index] else None, chunk)


def merged_matrices(
    deltas: TaskDeltas,
    method: Method,
    results: Sequence[ResultParameters],
    summaries: Sequence[list[dict[str, Any]]] = (),
    statistics: Statistics | None = None,
    wide: Statistics | None = None,
    turned: bool = False,
) -> Iterator[tuple[int, Tensor | LowRank]]:
    """The merged and calibrated deltas ``(m, n)`` of one matrix, each with the index of its result.

    What results have in common is computed once, as far as the method and the calibration declare it (``several``).
    Where all deltas are of low rank, and the method has a form for that, a result stays in its factors. One summary is
    appended to each result's ``summaries``: ``matrix`` is the matrix's number in its tensor, the rest is what the
    method and the calibration report. ``statistics``: of the tensor that the matrix belongs to, and ``wide`` those in
    float64, for what is calibrated; ``turned``: this one stores the transpose. Raises NumericsError.
    """
    calibrations = [chain.declared(chain.names(one.calibration)) for one in results]
    factored = all(
        method.has_factored_form(one.parameters, calibration)
        for one, calibration in zip(results, calibrations, strict=True)
    )
    cores = cores_of(deltas) if factored else None
    sets = [one.parameters for one in results]
    if cores is None and method.family == "elementwise":
        made = _elementwise(deltas, method, results, statistics, wide, turned)
    else:
        made = method.results(sets, deltas) if cores is None else method.factored_results(sets, cores)
    for indices, merged in made:
        calibrated = _calibrated(merged, deltas if cores is None else cores, results, indices)
        del merged
        for index, delta, summary in calibrated:
            if summaries:
                leading = {} if "sigma" in summary else {"sigma": leading_values(delta, TOP)}
                summaries[index].append({"matrix": deltas.offset // deltas.numel} | summary | leading)
            yield index, delta if cores is None else cores.spread(delta)
            del delta  # before the next one is made
        del calibrated


def _elementwise(
    deltas: TaskDeltas,
    method: Method,
    results: Sequence[ResultParameters],
    statistics: Statistics | None,
    wide: Statistics | None,
    turned: bool,
) -> Iterator[tuple[list[int], Merged]]:
    """Each distinct merged delta once, with the indices of the results that ask for it."""
    for (parameters, calibrated), indices in grouped(
        [(one.parameters, one.calibration is not None) for one in results]
    ):
        of, known = (in_matrix_precision(deltas, method), wide) if calibrated else (deltas, statistics)
        if turned and not method.tells_sides:  # what it makes of an entry depends on the place of its bytes
            delta = elementwise_matrix(of.transposed(), method, parameters, known).T.contiguous()
        else:
            delta = elementwise_matrix(of, method, parameters, known)
        yield indices, Merged(delta)
        del delta


def in_matrix_precision(deltas: TaskDeltas, method: Method) -> TaskDeltas:
    """The deltas as they are merged into a matrix that a calibration decomposes: by an element-wise method in float64.

    Of singular values that lie close together a sum in float32 would mix the directions.
    """
    return deltas.at("float64") if method.family == "elementwise" else deltas


def _calibrated(
    merged: Merged, deltas: TaskDeltas | Cores, results: Sequence[ResultParameters], indices: Sequence[int]
) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    """Index, delta and summary of each result that starts from ``merged``: first those without a calibration."""
    chains = [chain.steps(results[index].calibration) for index in indices]
    for position, delta, summary in chain.calibrated(merged, deltas, chains):
        narrowed = bool(chains[position]) and isinstance(deltas, TaskDeltas)  # cores stay in float64
        yield indices[position], delta.to(deltas.dtype) if narrowed else delta, summary
        del delta  # before the next one is made


def elementwise_matrix(
    deltas: TaskDeltas, method: Method, parameters: Mapping[str, Any], statistics: Statistics | None = None
) -> Tensor:
    """The merged delta of a whole tensor by an element-wise method, chunk by chunk into one result of its shape.

    ``statistics``: of the tensor that ``deltas`` are taken from, where they are not all of it.
    """
    result = torch.empty(deltas.shape, dtype=deltas.dtype, device=deltas.device)
    flat = result.view(-1)
    compute, statistics = method.load(), statistics or Statistics(deltas, method)
    for start, end in chunks(deltas.numel, deltas.row, method.whole_rows, deltas.grain):
        chunk = deltas.chunk(start, end)
        merged = compute(chunk, **parameters, **statistics.of(parameters))
        flat[start:end] = 0 if merged is None else chunk[merged.expert] if isinstance(merged, Copy) else merged
    return result
