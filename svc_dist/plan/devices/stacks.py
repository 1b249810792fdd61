"""Small matrices, each a tensor of its own as in most mixtures, that a device merges together: as a stack."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import accumulate

from msgspec import structs

from svc_dist.checkpoint.dtype import bytes_of
from svc_dist.linalg.devices.grain import on_the_cpu
from svc_dist.methods.chunking import together_on_device
from svc_dist.plan.costs import inputs_that_stay
from svc_dist.plan.devices.together import matrices_together
from svc_dist.plan.settings import Settings
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.tensors.dispositions import Disposition

#: Units of a model whose matrices are stacked, at least: its GPUs share these.
SHARES = 128


class Stacks:
    """Which matrices a plan's device merges as stacks; none on the CPU. ``decided``: a tensor's disposition by result.

    The plan alone says so: matrices that are merged together have other last bits than one by one.
    """

    def __init__(self, decided: Callable[[PlannedTensor], Sequence[Disposition]], settings: Settings) -> None:
        self._decided, self._precision = decided, settings.precision
        self._none = on_the_cpu(settings.device) or settings.precision == "float64"
        self._forms: dict[Hashable, bool] = {}

    def of(self, tensors: Iterable[PlannedTensor]) -> list[list[PlannedTensor]]:
        """The stacks among the tensors of a unit, each of at least two tensors in their order."""
        kinds: dict[Hashable, list[PlannedTensor]] = {}
        for tensor in tensors:
            if (kind := self._kind(tensor)) is not None:
                kinds.setdefault(kind, []).append(tensor)
        found: list[list[PlannedTensor]] = []
        for alike in kinds.values():
            most = together_on_device(*_sides(alike[0]))
            found += (alike[first : first + most] for first in range(0, len(alike), most))
        return [some for some in found if len(some) > 1 and self._all_stay(stacked(some))]

    def within(self, tensors: Sequence[PlannedTensor], size: int) -> set[str]:
        """The names of those after which a unit does not end before it has ``size`` bytes: one of a stack begins before
        or at them, and the next one ends after them, in no more bytes of a shard."""
        following: dict[Hashable, int] = {}
        last: dict[int, int] = {}  # by number, that of the next one of its kind
        for number, tensor in reversed([*enumerate(tensors)]):
            if (kind := self._kind(tensor)) is None:
                continue
            after = following.get((tensor.shard, kind))
            if after is not None and tensors[after].end - tensor.start <= size:
                last[number] = after
            following[tensor.shard, kind] = number
        reaches = accumulate((last.get(number, 0) for number in range(len(tensors))), max)
        return {
            tensor.name for number, (tensor, reach) in enumerate(zip(tensors, reaches, strict=True)) if reach > number
        }

    def _kind(self, tensor: PlannedTensor) -> Hashable:
        """What those of a stack have in common: all but the bytes; None for a tensor that is in none."""
        if self._none or tensor.batch is None or tensor.batch[0] > 1:
            return None
        dtypes = tuple(source.dtype for source in tensor.sources if source is not None)
        kind = (tensor.disposition, tensor.batch, tensor.turned, tensor.dtype, dtypes)
        if kind not in self._forms:
            self._forms[kind] = self._has_form(tensor) and all(bytes_of(dtype, 1) == 2 for dtype in dtypes)
        return kind if self._forms[kind] and len(dtypes) == len(tensor.sources) and _is_plain(tensor) else None

    def _has_form(self, tensor: PlannedTensor) -> bool:
        decided = self._decided(tensor)
        return decided[0].least_difference is None and matrices_together(stacked([tensor] * 2), decided) > 1

    def _all_stay(self, stack: PlannedTensor) -> bool:
        return inputs_that_stay(stack, self._decided(stack), self._precision) == len(stack.sources)


def stacked(tensors: Sequence[PlannedTensor]) -> PlannedTensor:
    """A stack as one tensor that holds several matrices, as plans count it."""
    shape = (len(tensors), *_sides(tensors[0]))
    return structs.replace(tensors[0], shape=shape, batch=shape)


def _sides(tensor: PlannedTensor) -> tuple[int, int]:
    assert tensor.batch is not None
    return tensor.batch[1], tensor.batch[2]


def _is_plain(tensor: PlannedTensor) -> bool:
    """Whether a tensor is made of its sources alone, is written as it is, and equals no other one."""
    beside = tensor.factors or tensor.base_factors or tensor.copies
    others = (tensor.factor, tensor.maps, tensor.merged_rows, tensor.codec, tensor.tied_to)
    return not beside and all(one is None for one in others)
