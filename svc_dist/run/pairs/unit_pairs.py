"""The pairs of factors that a unit writes: both of a tensor are made at once, from one look at its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import FLOAT_DTYPES, torch_dtype
from svc_dist.errors import DamagedInputError, NumericsError
from svc_dist.methods.apply import ResultParameters
from svc_dist.methods.deltas import TaskDeltas
from svc_dist.methods.overlap import delta_overlap
from svc_dist.methods.pairs.merged import best_pairs, shares_of, stacked_pairs
from svc_dist.methods.pairs.pair import Pair, require_finite_pair
from svc_dist.plan.adapters.factor import Factor
from svc_dist.plan.costs import takes_matrices
from svc_dist.plan.model import Plan
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.run.devices.fallback import Attempt
from svc_dist.run.inputs.joined import JoinedViews
from svc_dist.run.inputs.views import TensorInputs
from svc_dist.storage.reading import MappedRanges

_Records = list[dict[str, Any]]


class UnitPairs:
    """The factors of a unit in the order of its spans: ``lora_A`` of a tensor, then its ``lora_B``."""

    def __init__(self, plan: Plan, mapped: list[MappedRanges], attempt: Attempt, scratch: str | None) -> None:
        self._plan, self._mapped, self._attempt, self._scratch = plan, mapped, attempt, scratch
        self._made: tuple[str | None, list[Tensor]] = (None, [])

    def results(
        self, tensor: PlannedTensor, matrices: list[_Records], overlaps: _Records
    ) -> Iterator[tuple[int, Tensor]]:
        """The factor in each result, with the result's number, as flat tensors in the output dtype.

        Appends a summary of each matrix to ``matrices``, one list per result, and to ``overlaps``.
        """
        assert tensor.factor is not None
        name, others = self._made
        if tensor.factor.side == "b" and name == tensor.tied_to:
            factors = others
        else:
            with JoinedViews(self._scratch) as joined:
                pairs = self._pairs(tensor, tensor.factor, joined, overlaps)
            for records, of_result in zip(matrices, pairs, strict=True):
                records += [
                    {"tensor": tensor.tied_to, "matrix": number, "rank": tensor.factor.rank, **pair.summary()}
                    for number, pair in enumerate(of_result)
                ]
            first, second = zip(*(_stored(of_result, tensor.factor.swapped) for of_result in pairs), strict=True)
            self._made = tensor.tied_to, list(second)
            factors = list(first) if tensor.factor.side == "a" else list(second)
        yield from enumerate(factors)

    def _pairs(
        self, tensor: PlannedTensor, factor: Factor, joined: JoinedViews, overlaps: _Records
    ) -> list[list[Pair]]:
        """The pairs of every matrix, of each result."""
        dense, plan = tensor.dense, self._plan
        inputs = TensorInputs(plan, dense, 0, factor.numel, self._mapped, joined)
        deltas = TaskDeltas(
            inputs.views[1:],
            inputs.views[0],
            changes=inputs.changes or None,
            precision=plan.settings.precision,
            device=self._attempt.device,
            low_memory=self._attempt.low_memory,
            tensor=str(tensor.tied_to),
            row=dense.row,
            shape=(factor.numel,),
        )
        made = self._made_pairs(tensor, factor, deltas)
        pairs: list[list[Pair]] = [[] for _ in plan.results]
        try:
            for of_matrix in made:
                for of_result, pair in zip(pairs, of_matrix, strict=True):
                    require_finite_pair(pair, f"matrix {len(of_result)}")
                    of_result.append(pair)
        except NumericsError as error:
            raise self._damaged(tensor, inputs, error) from None
        if (overlap := delta_overlap(deltas)) is not None:
            overlaps.append({"tensor": tensor.tied_to, **overlap})
        return pairs

    def _made_pairs(self, tensor: PlannedTensor, factor: Factor, deltas: TaskDeltas) -> Iterator[list[Pair]]:
        decided = self._plan.dispositions(tensor)
        first, dtype = decided[0], torch_dtype(tensor.dtype)
        parameters = [dict(one.parameters or {}) for one in decided]
        scales = [float(one.pop("lambda", 1.0)) for one in parameters]
        if factor.blocks:
            shares = [
                [scale * share for share in shares_of(first.method, given, len(deltas), first.source)]
                for given, scale in zip(parameters, scales, strict=True)
            ]
            return stacked_pairs(deltas, shares, factor.matrices, factor.blocks, dtype)
        results = [ResultParameters(given, one.calibration) for given, one in zip(parameters, decided, strict=True)]
        batch = tensor.batch if takes_matrices(tensor, decided) else None
        return best_pairs(
            deltas, first.method, results, scales, factor.matrices, factor.rank, dtype,
            batch=batch, turned=tensor.turned, source=first.source,
        )  # fmt: skip

    def _damaged(
        self, tensor: PlannedTensor, inputs: TensorInputs, error: NumericsError
    ) -> DamagedInputError | NumericsError:
        """Why factors are not finite: an input is damaged, or the arithmetic overflowed."""
        damaged = inputs.damaged(nan_only=False)
        if damaged is not None:
            return damaged
        return NumericsError(
            f"tensor {tensor.name!r}: {error.message}",
            error.hint or f"write a wider dtype than {FLOAT_DTYPES[tensor.dtype]}, or lower `lambda` or the weights",
        )


def _stored(pairs: list[Pair], swapped: bool) -> tuple[Tensor, Tensor]:
    """``lora_A`` and ``lora_B`` flat: of several matrices A has one after the other, B their columns in turn."""
    sides = [(pair.left.T, pair.right.T) if swapped else (pair.right, pair.left) for pair in pairs]
    a = torch.cat([side[0] for side in sides])
    b = torch.stack([side[1] for side in sides], dim=2)
    return a.reshape(-1).contiguous(), b.reshape(-1).contiguous()
