"""The experts of a mixture in one layout or the other: one tensor for all of them, or one tensor each.

transformers 4 stores ``mlp.experts.7.gate_proj.weight`` of shape ``(I, H)``, ``up_proj`` and ``down_proj (H, I)`` for
each expert (Mixtral: ``block_sparse_moe.experts.7.w1.weight``, ``w3``, ``w2``); transformers 5 stores, and some
trainers save, ``mlp.experts.gate_up_proj (E, 2I, H)``, each expert's gate above its up, and ``down_proj (E, H, I)``.
The bytes of both are the same, in another order: no value changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from msgspec import structs

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.formats.cut import rows_of
from svc_dist.checkpoint.header import TensorSpec

_SINGLE = re.compile(r"(?P<block>.+\.experts)\.(?P<number>\d+)\.(?P<part>[a-z]+_proj|w[123]|fc[123])\.weight")
_FUSED = re.compile(r"(?P<block>.+\.experts)\.(?P<part>gate_up_proj|up_proj|down_proj)")
#: The parts of an expert from top to bottom of each fused tensor, as the families of models name them.
_PARTS = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3"), ("fc1", "fc3")),
    "up_proj": (("up_proj",),),
    "down_proj": (("down_proj",), ("w2",), ("fc2",)),
}
#: Names of a mixture that transformers 5 changed together with the layout.
_BLOCKS = (".block_sparse_moe.", ".mlp.")
_ROUTERS = (".gate.weight", ".router.weight")
#: Other names that it changed, of tensors that it left as they were.
_RENAMED = (
    (".input_linear.weight", ".experts.gate_up_proj"), (".output_linear.weight", ".experts.down_proj"),
    (".router.layer.weight", ".router.weight"),
    (".experts.fc1.weight", ".experts.gate_up_proj"), (".experts.fc2.weight", ".experts.down_proj"),
    (".mlp.moe_statics.e_score_correction_bias", ".mlp.gate.moe_statics.e_score_correction_bias"),
    (".mlp.gate.expert_bias", ".mlp.gate.e_score_correction_bias"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of one expert in a fused tensor that are ``name``, a tensor of their own in the other layout."""

    name: str
    expert: int
    top: int
    rows: int


def is_single_expert(name: str) -> bool:
    """Whether a tensor is a weight of one expert of a mixture, by its name."""
    return _SINGLE.fullmatch(name) is not None


def slices(fused: str, shape: tuple[int, ...], tensors: Mapping[str, TensorSpec]) -> list[Slice]:
    """The single tensors of ``tensors`` that make up the fused one, in the order of its bytes; none unless all fit.

    ``shape``: ``(E, rows, columns)``.
    """
    match = _FUSED.fullmatch(fused)
    if match is None or len(shape) != 3:
        return []
    count, height, columns = shape
    for block in other_names(match["block"]):
        for parts in _PARTS[match["part"]]:
            rows = height // len(parts)
            if f"{block}.0.{parts[0]}.weight" not in tensors or rows * len(parts) != height:
                continue
            every = [
                Slice(f"{block}.{expert}.{part}.weight", expert, number * rows, rows)
                for expert in range(count)
                for number, part in enumerate(parts)
            ]
            specs = [tensors.get(one.name) for one in every]
            more = f"{block}.{count}.{parts[0]}.weight" in tensors
            if not more and all(spec is not None and spec.shape == (rows, columns) for spec in specs):
                return every
    return []


def fused_shapes(block: str, tensors: Mapping[str, TensorSpec]) -> dict[str, tuple[int, int, int]]:
    """The fused tensors that a block's single experts would be, with their shapes; ``block`` ends in ``experts``."""
    shapes: dict[str, tuple[int, int, int]] = {}
    for name in other_names(block):
        for fused, choices in _PARTS.items():
            if fused == "up_proj" and shapes:
                continue  # the lower half of a gate_up_proj
            for parts in choices:
                first = tensors.get(f"{name}.0.{parts[0]}.weight")
                if first is None or len(first.shape) != 2:
                    continue
                count = 1
                while f"{name}.{count}.{parts[0]}.weight" in tensors:
                    count += 1
                shape = (count, first.shape[0] * len(parts), first.shape[1])
                if slices(f"{block}.{fused}", shape, tensors):
                    shapes[f"{block}.{fused}"] = shape
    return shapes


def fused_name(single: str, tensors: Mapping[str, TensorSpec]) -> str | None:
    """The tensor among ``tensors`` that a single expert's tensor is a part of, by its name; None where none is."""
    match = _SINGLE.fullmatch(single)
    if match is None:
        return None
    for block in other_names(match["block"]):
        for fused, choices in _PARTS.items():
            if any(match["part"] in parts for parts in choices) and f"{block}.{fused}" in tensors:
                return f"{block}.{fused}"
    return None


def place_of(single: str, fused: str, shape: tuple[int, ...]) -> Slice | None:
    """Where a single expert's tensor, by its name, lies in a fused one of that shape; None where it does not."""
    match = _SINGLE.fullmatch(single)
    if match is None or len(shape) != 3 or int(match["number"]) >= shape[0]:
        return None
    for parts in _PARTS[fused.rpartition(".")[2]]:
        if match["part"] in parts and shape[1] % len(parts) == 0:
            rows = shape[1] // len(parts)
            return Slice(single, int(match["number"]), parts.index(match["part"]) * rows, rows)
    return None


def in_layout_of(model: Checkpoint, base: Checkpoint) -> Checkpoint:
    """``model`` with its experts in the layout of ``base`` and under its names; the rest is as it was.

    An expert whose layout does not fit the base's stays under its own names, so that it is refused by them.
    """
    foreign = [name for name in model.tensors if name not in base.tensors]
    if not any("experts." in name or _BLOCKS[0] in name or _BLOCKS[1] in name for name in foreign):
        return model
    tensors = dict(model.tensors)
    for block, shapes in _blocks(foreign, model, base):
        changed = _converted(block, shapes, model, base)
        for old in changed.replaced:
            tensors.pop(old, None)
        tensors |= changed.tensors
    for name in foreign:
        if name not in tensors:
            continue
        new = next((other for other in other_names(name) if other != name and other in base.tensors), None)
        if new is not None and new not in tensors:
            tensors[new] = structs.replace(tensors.pop(name), name=new)
    return replace(model, tensors=tensors)


@dataclass(frozen=True)
class _Converted:
    replaced: tuple[str, ...]
    tensors: Mapping[str, TensorSpec]


def _blocks(
    foreign: list[str], model: Checkpoint, base: Checkpoint
) -> Iterator[tuple[bool, dict[str, tuple[int, ...]]]]:
    """The mixtures in which the layouts differ: whether the base's is fused, and the fused tensors' shapes."""
    fused: dict[str, dict[str, tuple[int, ...]]] = {}
    single: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in foreign:
        if (match := _FUSED.fullmatch(name)) is not None:
            single.setdefault(match["block"], {})[name] = model.tensors[name].shape
        elif (match := _SINGLE.fullmatch(name)) is not None and match["number"] == "0":
            target = fused_name(name, base.tensors)
            if target is not None:
                fused.setdefault(target.rpartition(".")[0], {})[target] = base.tensors[target].shape
    yield from ((True, shapes) for shapes in fused.values())
    yield from ((False, shapes) for shapes in single.values())


def _converted(fuse: bool, shapes: Mapping[str, tuple[int, ...]], model: Checkpoint, base: Checkpoint) -> _Converted:
    """The tensors of one mixture in the base's layout; none unless all of them fit."""
    replaced: list[str] = []
    tensors: dict[str, TensorSpec] = {}
    for fused, shape in shapes.items():
        parts = slices(fused, shape, model.tensors if fuse else base.tensors)
        if not parts:
            return _Converted((), {})
        if not fuse:
            stack = model.tensors[fused]
            cut = [rows_of(stack, part.name, part.expert, part.top, part.rows) for part in parts]
            if None in cut:
                return _Converted((), {})
            replaced.append(fused)
            tensors |= {spec.name: spec for spec in cut if spec is not None}
            continue
        specs = tuple(model.tensors[part.name] for part in parts)
        if len({spec.dtype for spec in specs}) > 1:
            return _Converted((), {})
        replaced += [part.name for part in parts]
        size = sum(spec.nbytes for spec in specs)
        tensors[fused] = TensorSpec(fused, specs[0].dtype, shape, specs[0].file, 0, size, specs)
    return _Converted(tuple(replaced), tensors)


def other_names(name: str) -> Iterator[str]:
    """The name, and those that it has in models of the other layout."""
    yield name
    for pair in _RENAMED:
        for ending, changed in (pair, pair[::-1]):
            if name.endswith(ending):
                yield name.removesuffix(ending) + changed
    for old, new in (_BLOCKS, _BLOCKS[::-1]):
        if old in f"{name}.":
            other = f"{name}.".replace(old, new)[:-1]
            yield other
            for router, changed in (_ROUTERS, _ROUTERS[::-1]):
                if other.endswith(router):
                    yield other.removesuffix(router) + changed
