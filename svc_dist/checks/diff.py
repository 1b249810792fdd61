"""The difference of two models, tensor by tensor, out of core."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch

from svc_dist.checkpoint.checkpoint import Checkpoint, open_checkpoint
from svc_dist.checkpoint.dtype import FLOAT_DTYPES
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import printable
from svc_dist.plan.inputs import as_decoded, stored_range
from svc_dist.run.inputs.whole import Block, cuts
from svc_dist.run_folder.series.pointer import resolved
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.hub.locate import locate_here
from svc_dist.storage.reading import Source, map_ranges
from svc_dist.tensor_names import natural_key

_BLOCK = 1 << 25  # elements of a tensor in one mapping, or one fetch
_CHUNK = 1 << 20  # elements in one comparison


@dataclass(frozen=True)
class TensorDifference:
    """One tensor of two models A and B; a quantised weight is one tensor, ``a`` and ``b`` say how it is stored.

    ``kind``: ``identical`` (every byte), ``equal`` (every value: another dtype, or another sign of zero),
    ``different``, ``shape``, ``dtype`` (only one of them is a floating-point type), ``only in A`` or ``only in B``. For
    weights: how many of the ``elements`` differ, the largest ``|a - b|``, ``||a - b|| / ||a||`` and the cosine of a and
    b; NaN where a weight is NaN.
    """

    name: str
    kind: str
    a: str
    b: str
    elements: int = 0
    differing: int = 0
    max_abs: float | None = None
    relative_norm: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Difference:
    """Two models and all of their tensors, in natural order."""

    a: str
    b: str
    tensors: tuple[TensorDifference, ...]

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in self.counts().items())
        return f"<Difference of {self.a} and {self.b}: {counts}>"

    @property
    def same(self) -> bool:
        """Whether every tensor has the same values in both models."""
        return all(tensor.kind in ("identical", "equal") for tensor in self.tensors)

    def counts(self) -> dict[str, int]:
        """The number of tensors of each kind, in order of appearance."""
        return dict(Counter(tensor.kind for tensor in self.tensors))

    def worst(self) -> list[TensorDifference]:
        """The tensors that differ: those that cannot be compared first, then by falling relative norm."""
        different = [tensor for tensor in self.tensors if tensor.kind not in ("identical", "equal")]
        norms = {t.name: math.inf if t.relative_norm is None else t.relative_norm for t in different}
        return sorted(different, key=lambda t: -math.inf if math.isnan(norms[t.name]) else -norms[t.name])

    def data(self) -> dict[str, Any]:
        """Plain data for JSON, with None in place of numbers that are not finite."""
        tensors = [
            {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry}
            for entry in (vars(tensor).items() for tensor in self.tensors)
        ]
        return {"a": self.a, "b": self.b, "same": self.same, "counts": self.counts(), "tensors": tensors}

    def text(self, most: int = 20) -> str:
        """Lines for a terminal: the counts, and at most ``most`` different tensors."""
        worst = self.worst()
        lines = [f"A {self.a}", f"B {self.b}", ", ".join(f"{count} {kind}" for kind, count in self.counts().items())]
        if worst:
            lines.append(f"{'rel. norm':>10} {'max abs':>10} {'cosine':>10} {'differ':>7}")
        for tensor in worst[:most]:
            if tensor.relative_norm is None or tensor.max_abs is None or tensor.cosine is None:
                sides = " against ".join(filter(None, (tensor.a, tensor.b)))
                lines.append(f"{tensor.kind:>40}  {printable(tensor.name)}: {sides}")
                continue
            share = tensor.differing / tensor.elements
            figures = f"{tensor.relative_norm:10.3g} {tensor.max_abs:10.3g} {tensor.cosine:10.7f} {share:7.2%}"
            lines.append(f"{figures}  {printable(tensor.name)}")
        return "\n".join(lines + ([f"and {len(worst) - most} more"] if len(worst) > most else []))


def diff(a: str, b: str, access: Access = DEFAULT_ACCESS, scratch: str | None = None) -> Difference:
    """Compare two models, whatever their sharding and dtypes. Raises DamagedInputError, StorageError.

    Quantised weights are compared by the values that their codes stand for: in float32, beside a model of 16 bits in
    bfloat16, from which such a model was trained. ``scratch``: as in ``map_ranges``. At most two blocks of 32 Mi
    elements of each model are mapped at a time, and of a quantised weight some rows, or one matrix, are decoded.
    """
    first, second = (locate_here(resolved(one, access), access) for one in (a, b))
    models = _opened(first, second, access)
    sources = [Source(model.location, model.files, access) for model in models]
    names = sorted({*models[0].tensors, *models[1].tensors}, key=natural_key)
    with ThreadPoolExecutor(2) as pool:
        differences = pool.map(lambda name: _compare(name, models, sources, scratch, access.parallel), names)
        return Difference(a, b, tuple(differences))


def _opened(a: str, b: str, access: Access) -> tuple[Checkpoint, Checkpoint]:
    """The models with quantised weights as one tensor each.

    The scales of their activations are compared where both are quantised: a model that is not has none.
    """
    stored = open_checkpoint(a, access), open_checkpoint(b, access)
    first, second = (decoded_checkpoint(one, access) for one in stored)
    if not all(any(spec.codec is not None for spec in one.tensors.values()) for one in (first, second)):
        return first, second
    whole = [
        replace(one, tensors={**one.tensors, **{name: plain.tensors[name] for name in one.unneeded}})
        for one, plain in zip((first, second), stored, strict=True)
    ]
    return whole[0], whole[1]


def _compare(
    name: str, models: tuple[Checkpoint, Checkpoint], sources: list[Source], scratch: str | None, parallel: int
) -> TensorDifference:
    a, b = (model.tensors.get(name) for model in models)
    words = _words(a), _words(b)
    if a is None or b is None:
        return TensorDifference(name, "only in B" if a is None else "only in A", *words)
    if a.shape != b.shape:
        return TensorDifference(name, "shape", *words)
    weights = a.dtype in FLOAT_DTYPES and b.dtype in FLOAT_DTYPES
    if a.dtype != b.dtype and not weights:
        return TensorDifference(name, "dtype", *words)
    tally = _Tally()
    slots = [slot for slot in as_decoded([stored_range(number, spec) for number, spec in enumerate((a, b))]) if slot]
    alike = _stored_alike(a, b)
    for start, end in cuts(slots, _BLOCK):
        blocks = [
            Block(slot, start, end, f"{model.location}/{slot.file}: tensor {name!r}")
            for slot, model in zip(slots, models, strict=True)
        ]
        with map_ranges(sources, [block.ranges for block in blocks], scratch, parallel) as reading:
            tally.same_bytes &= alike and blocks[0].same_bytes(reading.mapped[0], blocks[1], reading.mapped[1])
            views = [block.values(mapped) for block, mapped in zip(blocks, reading.mapped, strict=True)]
            for first in range(0, len(views[0]), _CHUNK):
                tally.add(views[0][first : first + _CHUNK], views[1][first : first + _CHUNK], weights)
            views.clear()  # before their pages are released
    kind = "different" if tally.differing else "identical" if tally.same_bytes else "equal"
    if not weights:
        return TensorDifference(name, kind, *words, a.numel)
    return TensorDifference(
        name, kind, *words, a.numel, tally.differing, tally.largest, tally.relative_norm, tally.cosine
    )


def _stored_alike(a: TensorSpec, b: TensorSpec) -> bool:
    """Whether equal bytes of both are equal values."""
    if a.codec is None or b.codec is None:
        return a.codec == b.codec and a.dtype == b.dtype
    one, other = codec_of(a.codec), codec_of(b.codec)
    return one.takes(other) or other.takes(one)


def _words(spec: TensorSpec | None) -> str:
    if spec is None:
        return ""
    return f"{spec.dtype if spec.codec is None else codec_of(spec.codec).label} {list(spec.shape)}"


class _Tally:
    """Sums over the elements of a tensor, in float64."""

    def __init__(self) -> None:
        self.same_bytes = True
        self.differing = 0
        self.largest = self._gap = self._a = self._b = self._product = 0.0

    def add(self, a: torch.Tensor, b: torch.Tensor, weights: bool) -> None:
        """Add elements: weights by value, anything else by bytes."""
        same = a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        if not weights:
            self.differing += 0 if same else int((a != b).sum())
            return
        a = a.double()
        square = float(a @ a)
        b = a if same else b.double()
        self._a += square
        self._b += square if same else float(b @ b)
        self._product += square if same else float(a @ b)
        if not same:
            gap = b - a
            self.differing += int((gap != 0).sum())
            largest = float(gap.abs().max())
            self.largest = largest if largest > self.largest or largest != largest else self.largest
            self._gap += float(gap @ gap)

    @property
    def relative_norm(self) -> float:
        return math.sqrt(self._gap / self._a) if self._a else math.inf if self._gap else 0.0

    @property
    def cosine(self) -> float:
        if not self._a or not self._b:
            return 1.0 if self._a == self._b else 0.0
        return self._product / math.sqrt(self._a) / math.sqrt(self._b)
