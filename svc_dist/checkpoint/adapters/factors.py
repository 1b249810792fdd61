"""What the pairs of an adapter add to the tensors of a model: which tensor, which of its rows, and which way round.

A pair of a module adds ``scale * B A`` to the module's weight. A pair of a target parameter that holds all experts
of a mixture, ``(E, ., .)``, stacks the pairs of the experts: ``lora_A (E r, .)`` with the expert slowest, ``lora_B
(., E r)`` with the expert fastest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from svc_dist.checkpoint.adapters.config import MERGE_FIRST, AdapterConfig
from svc_dist.checkpoint.adapters.tensors import Pair
from svc_dist.checkpoint.checkpoint import ADAPTER_CONFIG, Checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES, bytes_of
from svc_dist.checkpoint.fused_experts import fused_name, fused_shapes, other_names, place_of, slices
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import DamagedInputError, PlanError

#: The order in which models define the parameters of their experts, and PEFT wraps them: the first innermost.
_DEFINED = ("gate_up_proj", "gate_proj", "up_proj", "down_proj", "input_linear", "output_linear", "w1", "w2", "w3")
#: Types of models whose experts PEFT takes as ``(E, in, out)``.
_ROWS_FIRST = ("gpt_oss", "openai_privacy_filter", "aria", "aria_text")


@dataclass(frozen=True, slots=True)
class AdapterFactors:
    """What a pair adds to a tensor from element ``first`` on: to one matrix ``(rows, columns)``, or to ``experts``.

    That is ``scale * b @ a`` with ``a (r, columns)`` and ``b (rows, r)``, or where ``transposed`` its transpose with
    ``a (r, rows)`` and ``b (columns, r)``. Of several matrices, one after the other, number ``e`` has rows
    ``[e r, e r + r)`` of ``a``. ``lane = (e, E)``: the first matrix has columns ``e, e + E, ...`` of ``b`` as stored,
    the next one ``e + 1, ...``. ``magnitude``: of DoRA, a length for each row of ``b``.
    """

    a: TensorSpec
    b: TensorSpec
    rank: int
    scale: float
    transposed: bool
    first: int
    rows: int
    columns: int
    experts: int = 1
    lane: tuple[int, int] = (0, 1)
    magnitude: TensorSpec | None = None


@dataclass(frozen=True)
class Attaching:
    """An adapter's configuration, its file and its folder, and the model below it."""

    config: AdapterConfig
    where: str
    below: Checkpoint
    tensors: Mapping[str, TensorSpec]

    def factors(self, name: str, pairs: Sequence[Pair]) -> dict[str, tuple[AdapterFactors, ...]]:
        """What the pairs of one module add, by tensor. ``name``: of the module's weight, renamed for the merge.

        Raises PlanError naming the adapter's file and tensor for a pair without a tensor of its name and shape.
        """
        name = self._stored(name) or name
        module = name.removesuffix(".weight")
        spec = self.tensors.get(name)
        if spec is not None and len(spec.shape) == 3 and self.config.targets(f"{pairs[0].module}.weight"):
            return self._of_parameters(module, pairs, {name: spec.shape})
        if spec is not None and len(pairs) == 1:
            return {name: (self._of_weight(name, pairs[0], spec),)}
        fused = fused_name(name, self.tensors) if spec is None and len(pairs) == 1 else None
        if fused is not None:
            return self._part_of(fused, name, pairs[0])
        parameters = (*_DEFINED, *(one.rpartition(".")[2] for one in self.config.target_parameters))
        stored = {f"{module}.{one}": self._stored(f"{module}.{one}") for one in parameters}
        shapes = {one: self.tensors[tensor].shape for one, tensor in stored.items() if tensor is not None}
        if not shapes:
            shapes = dict(fused_shapes(module, self.tensors))
        if not shapes and spec is None:
            self._require(spec, name, pairs[0])
        return self._of_parameters(module, pairs, shapes)

    def _stored(self, name: str) -> str | None:
        """The name of a tensor in the model, which may be one of another version of transformers; None if not there."""
        return next((other for other in other_names(name) if other in self.tensors), None)

    def _require(self, spec: TensorSpec | None, name: str, pair: Pair) -> TensorSpec:
        where = f"{self.where}: tensor {pair.b.name!r}"
        if spec is None:
            packed = f"{name.removesuffix('.weight')}.gate_up_proj_blocks"
            if packed in self.tensors:
                raise PlanError(
                    f"{where} is for experts that {self.below.location} stores as MXFP4 ({packed!r}): nothing can be "
                    "added to them",
                    "name a base_model in a plain float dtype, like a dequantised copy of it",
                    code="adapter-on-quantised",
                )
            raise PlanError(
                f"{where} is for {name!r}, which {self.below.location} does not have",
                f"{self._trained_on()}; if only names differ, add `rename`; or " + MERGE_FIRST,
                code="adapter-does-not-fit",
            )
        if spec.dtype not in FLOAT_DTYPES:
            raise PlanError(
                f"{where} is for {name!r}, which is {spec.dtype} in {self.below.location}: nothing can be added to it",
                "name a base_model in a plain float dtype, like the one that was quantised",
                code="adapter-on-quantised",
            )
        return spec

    def _trained_on(self) -> str:
        """What to do about an adapter that does not fit."""
        named = self.config.base_model
        return f"name {named or 'the model'}, which the adapter was trained on, as base_model"

    def _of_weight(self, name: str, pair: Pair, spec: TensorSpec) -> AdapterFactors:
        """The factors of a module's weight: of a matrix, of an embedding, or of a convolution ``(out, in, ...)``."""
        self._require(spec, name, pair)
        rank, scale = self.config.scale(pair.module)
        if self.config.targets(f"{pair.module}.weight"):
            rank, scale = self.config.scale(f"{pair.module}.weight")
        require_rank(pair, rank, self.where)
        made = (pair.b.shape[0], *pair.a.shape[1:])
        shape = spec.shape
        if pair.embedding:
            made, transposed = (pair.a.shape[1], pair.b.shape[0]), True
        else:
            # As in PEFT: the shape decides where it allows one way only, whatever the flag says.
            transposed = len(shape) == 2 and shape == made[::-1] and (self.config.fan_in_fan_out or shape != made)
        if shape != (made[::-1] if transposed and not pair.embedding else made):
            raise PlanError(
                f"{self.where}: tensor {pair.b.name!r} and {pair.a.name!r} make {list(made)}, but {name!r} has shape "
                f"{list(shape)} in {self.below.location}",
                self._trained_on() + (", or " + MERGE_FIRST if len(shape) > 2 else ""),
                code="adapter-does-not-fit",
            )
        columns = spec.numel // max(shape[0], 1)
        return AdapterFactors(
            pair.a, pair.b, rank, scale, transposed, 0, shape[0], columns, magnitude=self._magnitude(pair)
        )

    def _magnitude(self, pair: Pair) -> TensorSpec | None:
        spec = pair.magnitude
        if spec is not None and spec.numel != pair.b.shape[0]:
            raise PlanError(
                f"{self.where}: tensor {spec.name!r} has {spec.numel} values, but {pair.b.name!r} has "
                f"{pair.b.shape[0]} rows",
                "save the adapter again",
                code="adapter-does-not-fit",
            )
        return spec

    def _part_of(self, fused: str, name: str, pair: Pair) -> dict[str, tuple[AdapterFactors, ...]]:
        """A pair for one expert of a mixture whose experts are one tensor in the model."""
        spec = self._require(self.tensors[fused], fused, pair)
        self._require_plain(pair)
        _, height, columns = spec.shape if len(spec.shape) == 3 else (0, 0, 0)
        rank, scale = self.config.scale(pair.module)
        require_rank(pair, rank, self.where)
        rows = pair.b.shape[0]
        part = place_of(name, fused, spec.shape)
        if part is None or (part.rows, columns) != (rows, pair.a.shape[1]):
            raise PlanError(
                f"{self.where}: tensor {pair.b.name!r} and {pair.a.name!r} make {[rows, pair.a.shape[1]]}, which is no "
                f"part of {fused!r} of shape {list(spec.shape)} in {self.below.location}",
                self._trained_on(),
                code="adapter-does-not-fit",
            )
        first = (part.expert * height + part.top) * columns
        return {fused: (AdapterFactors(pair.a, pair.b, rank, scale, False, first, rows, columns),)}

    def _require_plain(self, pair: Pair) -> None:
        if pair.magnitude is not None:
            raise PlanError(
                f"{self.where}: tensor {pair.magnitude.name!r} is DoRA of an expert whose weights "
                f"{self.below.location} stores in one tensor with the other experts'",
                "name a base_model with one tensor for each expert, or " + MERGE_FIRST,
                code="adapter-not-supported",
            )

    def _of_parameters(
        self, module: str, pairs: Sequence[Pair], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[AdapterFactors, ...]]:
        """Pairs of target parameters, ``shapes`` by name in the order of their definition."""
        targets = {
            name: shape
            for name, shape in shapes.items()
            if not self.config.target_parameters or self.config.targets(_parameter(pairs[0], name))
        }
        fitting = [
            names
            for names in itertools.combinations(targets, len(pairs))
            if all(self._fits(pair, name, shapes[name]) for name, pair in zip(names, pairs, strict=True))
        ]
        if len(fitting) != 1:
            shown = ", ".join(f"{name} {list(shape)}" for name, shape in (targets or shapes).items()) or "none"
            made = ", ".join(f"{pair.b.name!r} {list(pair.b.shape)}" for pair in pairs)
            raise PlanError(
                f"{self.where}: it is not clear for which parameters of {module!r} in {self.below.location} "
                f"{made} are: {shown}",
                f"{self._trained_on()}, or " + MERGE_FIRST,
                code="adapter-does-not-fit",
            )
        found: dict[str, tuple[AdapterFactors, ...]] = {}
        for name, pair in zip(fitting[0], pairs, strict=True):
            self._require_plain(pair)
            flipped = self._flipped(dict(zip(fitting[0], pairs, strict=True)), name, shapes)
            rank, scale = self.config.scale(_parameter(pair, name))
            count, rows, columns = (1, *shapes[name])[-3:]
            stacked = AdapterFactors(pair.a, pair.b, rank, scale, flipped, 0, rows, columns, count, (0, count))
            if (tensor := self._stored(name)) is not None:
                self._require(self.tensors[tensor], tensor, pair)
                found[tensor] = (stacked,)
                continue
            for part in slices(name, shapes[name], self.tensors):
                a, b = _rows(pair.a, part.expert * rank, rank), _rows(pair.b, part.top, part.rows)
                lane = (part.expert, count)
                found[part.name] = (replace(stacked, a=a, b=b, rows=part.rows, experts=1, lane=lane),)
        return found

    def _fits(self, pair: Pair, name: str, shape: tuple[int, ...]) -> bool:
        rank = self.config.scale(_parameter(pair, name))[0]
        if len(shape) == 2:
            return (pair.b.shape[0], pair.a.shape[1]) == shape
        stacked = rank * shape[0]
        if len(shape) != 3 or pair.a.shape[0] != stacked or pair.b.shape[1] != stacked:
            return False
        return (pair.b.shape[0], pair.a.shape[1]) in (shape[1:], shape[:0:-1])

    def _flipped(self, pairs: Mapping[str, Pair], name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether ``lora_A`` acts on the rows of each expert's stored matrix, as it does for gpt-oss.

        A shape that is no square tells. Of a square one, the other pair of the same module does: PEFT treats both
        alike. Before 0.19 PEFT always took the rows; since then it asks the module.
        """
        for other in (name, *(other for other in pairs if other != name)):
            _, *shape = shapes[other]
            if len(shape) == 2 and shape[0] != shape[1]:
                return pairs[other].a.shape[1] == shape[0]
        if len(shapes[name]) == 2:
            return False
        kind = str((self.below.config or {}).get("model_type"))
        if kind in _ROWS_FIRST or self.config.peft_version < (0, 19):
            return True
        if not kind.startswith("qwen3_vl_moe"):  # whose files hold the transpose of what PEFT saw
            return False
        raise PlanError(
            f"{self.where}: tensor {pairs[name].b.name!r} adds a square matrix to each expert of {name!r}, and nothing "
            "says which way round",
            MERGE_FIRST,
            code="adapter-not-supported",
        )


def _parameter(pair: Pair, name: str) -> str:
    """The parameter ``name`` of a pair's module, under the name that the adapter's configuration gives it."""
    return f"{pair.module}.{name.rpartition('.')[2]}"


def require_rank(pair: Pair, rank: int, where: str) -> None:
    """Raise DamagedInputError unless both factors have the rank that the configuration says."""
    for spec, stored in ((pair.a, pair.a.shape[0]), (pair.b, pair.b.shape[1])):
        if stored != rank:
            raise DamagedInputError(
                f"{where}: tensor {spec.name!r} of shape {list(spec.shape)} has rank {stored}, "
                f"but {ADAPTER_CONFIG} says {rank} (r, rank_pattern)",
                "the two files do not belong together; save the adapter again",
            )


def _rows(spec: TensorSpec, top: int, rows: int) -> TensorSpec:
    """Some rows of a stored matrix."""
    length = spec.shape[1]
    start, end = (spec.start + bytes_of(spec.dtype, row * length) for row in (top, top + rows))
    return structs.replace(spec, shape=(rows, length), start=start, end=end)
