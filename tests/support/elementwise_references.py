"""The element-wise methods written plainly, from their definitions: whole tensors, full sorts, one line per step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from svc_dist.methods.apply import MergedChunk, ResultParameters, elementwise_matrix, merged_chunks
from svc_dist.methods.deltas import Copy, TaskDeltas
from svc_dist.methods.registry import METHODS


def merged(name: str, deltas: TaskDeltas, **given) -> Tensor:
    """The merged delta by the package, with defaults from the registry and per-model values spread."""
    return elementwise_matrix(deltas, METHODS[name], parameters(name, len(deltas), **given))


def parameters(name: str, experts: int, **given) -> dict:
    method = METHODS[name]
    values = {parameter.name: given.pop(parameter.name, parameter.default) for parameter in method.parameters}
    for parameter in method.parameters:
        if parameter.per_model and not isinstance(values[parameter.name], list):
            values[parameter.name] = [values[parameter.name]] * experts
    return {**values, **given}


def pieces(name: str, deltas: TaskDeltas, **given) -> list:
    return chunks_of(deltas, name, parameters(name, len(deltas), **given))


def chunks_of(
    deltas: TaskDeltas,
    name: str,
    given: dict,
    calibration: dict | None = None,
    batch: tuple[int, int, int] | None = None,
    summaries: list | None = None,
) -> list[MergedChunk]:
    """The chunks of one result, of complete parameters."""
    results = [ResultParameters(given, calibration)]
    return [chunk for _, chunk in merged_chunks(deltas, name, results, batch, [] if summaries is None else [summaries])]


def whole(name: str, deltas: TaskDeltas, **given) -> Tensor:
    """The same through ``merged_pieces``, put together as a caller would."""
    result = torch.zeros(deltas.numel, dtype=deltas.dtype)
    for start, end, part, _ in pieces(name, deltas, **given):
        if isinstance(part, Copy):
            result[start:end] = deltas.chunk(start, end)[part.expert]
        elif part is not None:
            result[start:end] = part
    return result.view(deltas.shape)


def order(magnitudes: Tensor) -> Tensor:
    """Flat places from the largest to the smallest magnitude; of equal ones the first is the larger."""
    return torch.from_numpy(np.argsort(-magnitudes.reshape(-1).numpy(), kind="stable"))


def trimmed(delta: Tensor, largest: int, kept: int) -> Tensor:
    """``delta`` without its ``largest`` entries and with the ``kept`` next ones only."""
    mask = torch.zeros(delta.numel(), dtype=delta.dtype)
    mask[order(delta.abs())[largest : largest + kept]] = 1
    return delta * mask.view(delta.shape)


def consensus(parts: list[Tensor], weight: list[float], normalize: bool) -> Tensor:
    values = torch.stack([part * share for part, share in zip(parts, weight, strict=True)])
    shares = torch.tensor(weight, dtype=values.dtype).view(-1, *[1] * (values.dim() - 1))
    elected = torch.where(values.sum(0) >= 0, 1.0, -1.0)
    agrees = values.sign() == elected
    total = (values * agrees).sum(0)
    if not normalize:
        return total
    divisor = (shares * agrees).sum(0)
    return total / torch.where(divisor == 0, 1.0, divisor)


def ties(deltas: list[Tensor], weight: list[float], density: list[float], normalize: bool = True) -> Tensor:
    parts = [trimmed(delta, 0, int(d * delta.numel())) for delta, d in zip(deltas, density, strict=True)]
    return consensus(parts, weight, normalize)


def breadcrumbs_part(delta: Tensor, density: float, gamma: float) -> Tensor:
    if density >= 1:
        return delta
    kept = int(density * delta.numel())
    return trimmed(delta, min(int(gamma * delta.numel()), delta.numel() - kept), kept)


def sce(deltas: list[Tensor], select_topk: float) -> Tensor:
    stack = torch.stack(deltas)
    if select_topk < 1:
        variance = stack.var(0, unbiased=False)
        stack = stack * trimmed(variance, 0, int(int((variance > 0).sum()) * select_topk)).sign()
    energy = stack.square().reshape(len(deltas), -1).sum(1)
    weight = energy / energy.sum()
    agrees = stack.sign() == torch.where(stack.sum(0) >= 0, 1.0, -1.0)
    shares = weight.view(-1, *[1] * (stack.dim() - 1)) * agrees
    divisor = shares.sum(0)
    return (stack * shares).sum(0) / torch.where(divisor == 0, 1.0, divisor)
