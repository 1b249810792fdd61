"""A resolved method and calibration applied to the deltas of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from svc_dist.linalg.svd import leading_values
from svc_dist.methods.calibration.svc import Calibrated, svc, svc_each
from svc_dist.methods.deltas import Copy, TaskDeltas, chunks
from svc_dist.methods.low_rank import LowRank
from svc_dist.methods.merged import TOP, Merged
from svc_dist.methods.registry import METHODS, Method
from svc_dist.methods.spectral.cores import Cores, cores_of


class Piece(NamedTuple):
    """The merged delta ``M`` of elements ``[start, end)`` of a flattened tensor, and the deltas it was made from.

    ``M`` is flat, in the compute dtype, or of low rank and still in its factors; None stands for exactly zero (every
    expert equals the base there), so that the caller can pass the base through bit for bit; ``Copy`` for an expert's
    own entries.
    """

    start: int
    end: int
    merged: Tensor | LowRank | Copy | None
    deltas: TaskDeltas


class Wanted(NamedTuple):
    """One result: complete parameters of the method, but for ``lambda``, and a calibration."""

    parameters: Mapping[str, Any]
    calibration: Mapping[str, Any] | None = None


def merged_pieces(
    deltas: TaskDeltas,
    method: str,
    parameters: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
    batch: tuple[int, int, int] | None = None,
    summaries: list[dict[str, Any]] | None = None,
) -> Iterator[Piece]:
    """The merged delta of a tensor, piece after piece: ``merged_pieces_each`` for one result."""
    wanted = [Wanted(parameters, calibration)]
    pieces = merged_pieces_each(deltas, method, wanted, batch, () if summaries is None else [summaries])
    return (piece for _, piece in pieces)


def merged_pieces_each(
    deltas: TaskDeltas,
    method: str,
    wanted: Sequence[Wanted],
    batch: tuple[int, int, int] | None = None,
    summaries: Sequence[list[dict[str, Any]]] = (),
) -> Iterator[tuple[int, Piece]]:
    """The merged deltas of a tensor, piece after piece: of each result in order, each piece with the result's number.

    ``batch``: ``(count, m, n)`` where the tensor is matrices; spectral methods and calibration work on those, one by
    one, and append a summary of each to their result's ``summaries``.
    """
    chosen = METHODS[method]
    known: dict[int, dict[str, Any]] = {}

    def whole(number: int) -> dict[str, Any]:
        """Made when first needed: not for a tensor that is zero throughout."""
        if number not in known:
            same = next((n for n in known if wanted[n].parameters == wanted[number].parameters), None)
            known[number] = known[same] if same is not None else whole_tensor(deltas, chosen, wanted[number].parameters)
        return known[number]

    by_matrix = [
        number
        for number, one in enumerate(wanted)
        if batch is not None and (chosen.family == "spectral" or one.calibration is not None)
    ]
    if batch is not None and by_matrix:
        size = batch[1] * batch[2]
        for index in range(batch[0]):
            part = deltas.matrix(index, batch)
            place = (index * size, (index + 1) * size)
            if part.all_zero():
                yield from ((number, Piece(*place, None, part)) for number in by_matrix)
                continue
            for number, merged in merge_matrix_each(part, chosen, wanted, by_matrix, summaries, whole):
                yield number, Piece(*place, merged if isinstance(merged, LowRank) else merged.reshape(-1), part)
                del merged  # before the next one is made
    by_chunk = [number for number in range(len(wanted)) if number not in by_matrix]
    if not by_chunk:
        return
    function = chosen.load()
    zero = chosen.zero == "tensor" and deltas.all_zero()
    for start, end in chunks(deltas.numel, deltas.row, chosen.whole_rows):
        part = deltas.chunk(start, end)
        nothing = part.all_zero() if chosen.zero == "piece" else zero
        made: list[tuple[Mapping[str, Any], Any]] = []
        for number in by_chunk:
            if nothing:
                yield number, Piece(start, end, None, part)
                continue
            parameters = wanted[number].parameters
            result = next((other for before, other in made if before == parameters), None)
            if result is None:
                result = function(part, **parameters, **whole(number))
                made.append((parameters, result))
            yield number, Piece(start, end, result, part)


def whole_tensor(deltas: TaskDeltas, method: Method, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a method's function is told about the whole tensor beside its piece: its first pass, if it makes one."""
    statistics = method.load_statistics()
    return {} if statistics is None else {"statistics": statistics(deltas, **parameters)}


def merge_matrix(
    deltas: TaskDeltas,
    method: Method,
    parameters: Mapping[str, Any],
    calibration: Mapping[str, Any] | None,
    summaries: list[dict[str, Any]] | None = None,
) -> Tensor | LowRank:
    """The merged and calibrated delta ``(m, n)`` of one matrix: ``merge_matrix_each`` for one result."""
    results = merge_matrix_each(
        deltas, method, [Wanted(parameters, calibration)], [0], () if summaries is None else [summaries],
        lambda _: whole_tensor(deltas, method, parameters),
    )  # fmt: skip
    return next(results)[1]


def merge_matrix_each(
    deltas: TaskDeltas,
    method: Method,
    wanted: Sequence[Wanted],
    numbers: Sequence[int],
    summaries: Sequence[list[dict[str, Any]]],
    whole: Callable[[int], Mapping[str, Any]],
) -> Iterator[tuple[int, Tensor | LowRank]]:
    """The merged and calibrated deltas ``(m, n)`` of one matrix, of the results ``numbers``, each with its number.

    What results have in common is computed once: a decomposition for several values of a method's parameter
    ``several``, another for several ``alpha``. Where all deltas are of low rank, and the method has a form for that, a
    result stays in its factors. One summary of each is appended to its ``summaries``; it says with ``matrix`` which one
    of its tensor it is, and what ``Merged`` and ``Calibrated`` say.
    """
    factored = all(method.has_factored_form(wanted[number].parameters) for number in numbers)
    cores = cores_of(deltas) if factored else None

    def spread(delta: Tensor) -> Tensor | LowRank:
        return delta if cores is None else cores.spread(delta)

    def note(number: int, delta: Tensor, summary: dict[str, Any]) -> None:
        if summaries:
            if "sigma" not in summary:
                summary = summary | {"sigma": leading_values(delta, TOP)}
            summaries[number].append({"matrix": deltas.offset // deltas.numel} | summary)

    for group, merged in _merged_each(deltas, cores, method, wanted, numbers, whole):
        for number in group:
            if wanted[number].calibration is None:
                note(number, merged.delta, merged.summary)
                yield number, spread(merged.delta)
        for side in ("left", "right"):
            calibrated = [n for n in group if (wanted[n].calibration or {}).get("side") == side]
            alphas = [(wanted[n].calibration or {})["alpha"] for n in calibrated]
            against = deltas if cores is None else cores
            results = svc_each(
                merged.delta, against, len(deltas), alphas=alphas, side=side, precision=against.precision,
                basis=merged.basis(side), length=max(deltas.shape),
            ) if alphas else ()  # fmt: skip
            for number, result in zip(calibrated, results, strict=True):
                note(number, result.delta, merged.summary | result.summary())
                yield number, spread(result.delta)
                del result  # before the next one is made
        del merged


def _merged_each(
    deltas: TaskDeltas,
    cores: Cores | None,
    method: Method,
    wanted: Sequence[Wanted],
    numbers: Sequence[int],
    whole: Callable[[int], Mapping[str, Any]],
) -> Iterator[tuple[list[int], Merged]]:
    """Each merged delta once, with the numbers of the results that begin with it."""
    groups: list[list[int]] = []
    for number in numbers:
        same = next((g for g in groups if wanted[g[0]].parameters == wanted[number].parameters), None)
        groups.append([number]) if same is None else same.append(number)
    sets = [dict(wanted[group[0]].parameters) for group in groups]
    data = deltas if cores is None else cores
    if method.several is not None and len(sets) > 1 and _differ_only_in(method.several, sets):
        common = {name: value for name, value in sets[0].items() if name != method.several}
        values = [one[method.several] for one in sets]
        each = method.load_each(cores is not None)(data, **common, **{method.several: values})
        yield from zip(groups, each, strict=True)
        return
    for group, parameters in zip(groups, sets, strict=True):
        if cores is not None:
            yield group, method.load_factored()(cores, **parameters)
        elif method.family == "spectral":
            yield group, method.load()(deltas, **parameters)
        else:
            yield group, Merged(elementwise(deltas, method, parameters, whole(group[0])))


def _differ_only_in(name: str, sets: Sequence[Mapping[str, Any]]) -> bool:
    return all({**one, name: None} == {**sets[0], name: None} for one in sets)


def elementwise(
    deltas: TaskDeltas, method: Method, parameters: Mapping[str, Any], whole: Mapping[str, Any] | None = None
) -> Tensor:
    """The merged delta of a whole tensor by an element-wise method, chunk by chunk into one result.

    ``whole``: the first pass's result when ``deltas`` are a part of the tensor that it was made on.
    """
    import torch

    if whole is None:
        whole = whole_tensor(deltas, method, parameters)
    result = torch.empty(deltas.shape, dtype=deltas.dtype, device=deltas.device)
    flat = result.view(-1)
    function = method.load()
    for start, end in chunks(deltas.numel, deltas.row, method.whole_rows):
        part = deltas.chunk(start, end)
        merged = function(part, **parameters, **whole)
        flat[start:end] = 0 if merged is None else part[merged.expert] if isinstance(merged, Copy) else merged
    return result


def calibrate(merged: Merged, deltas: TaskDeltas, calibration: Mapping[str, Any]) -> Calibrated:
    """Calibrate ``merged`` by a resolved calibration (its ``method`` and complete parameters)."""
    side = calibration["side"]
    return svc(
        merged.delta, deltas, len(deltas), alpha=calibration["alpha"], side=side, precision=deltas.precision,
        basis=merged.basis(side),
    )  # fmt: skip
