"""What a planned tensor costs: operations and peak memory, by its disposition in each result."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from msgspec import structs

from svc_dist.checkpoint.adapters.config import MERGE_FIRST
from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.errors import PlanError
from svc_dist.linalg.devices.grain import GRAIN, on_the_cpu
from svc_dist.linalg.devices.limits import WORKSPACE
from svc_dist.methods.calibration.chain import declared, names
from svc_dist.methods.chunking import CHUNK
from svc_dist.methods.costs import Work, difference_work, matrix_memory, product_work
from svc_dist.methods.elementwise.costs import memory_of_chunks, memory_of_selection
from svc_dist.methods.registry import METHODS
from svc_dist.methods.spectral.costs import factored_memory, factored_work, formed_memory
from svc_dist.methods.spectral.policy import factored_rank
from svc_dist.plan.adapters.costs import pair_memory, pair_work
from svc_dist.plan.devices.residents import sizes_that_fit
from svc_dist.plan.devices.together import memory_beside
from svc_dist.plan.inputs import InputRange
from svc_dist.plan.quantised.costs import coding_memory, coding_work
from svc_dist.plan.quantised.slabs import codec_grain
from svc_dist.plan.tensor import PlannedTensor
from svc_dist.plan.tensors.dispositions import Disposition
from svc_dist.plan.vocabulary.row_maps import SCATTERED


def row_of(tensor: PlannedTensor, dispositions: Sequence[Disposition]) -> int:
    """Elements of a row, as the method sees it: one that ranks whole rows takes those of a kernel's matrix."""
    method = None if dispositions[0].method is None else METHODS[dispositions[0].method]
    if method is not None and method.whole_rows and tensor.batch is not None and not tensor.turned:
        return tensor.batch[2]
    return tensor.row


def takes_matrices(tensor: PlannedTensor, dispositions: Sequence[Disposition]) -> bool:
    """Whether some result merges a tensor matrix by matrix, not in chunks: also where rows lie across its bytes."""
    return tensor.batch is not None and any(
        one.method is not None
        and (
            one.calibration is not None
            or METHODS[one.method].family == "spectral"
            or (tensor.turned and METHODS[one.method].tells_sides)
        )
        for one in dispositions
    )


def grain(tensor: PlannedTensor, dispositions: Sequence[Disposition]) -> int:
    """How many elements must stay in one unit: a row or a matrix; 0 for the whole tensor."""
    if tensor.factor is not None:
        return 0
    read = [source.grain for source in tensor.sources if source is not None]
    added = [one.grain for each in (*tensor.factors, tensor.base_factors) for one in each or ()]
    together = math.lcm(row_of(tensor, dispositions), *read, *added)
    if together == 0 and tensor.merged_rows is not None:
        raise PlanError(
            f"{tensor.name}: DoRA rescales the columns of this embedding, for which all its rows are needed, but only "
            f"{tensor.merged_rows:,} of them are merged (vocab)",
            MERGE_FIRST,
            code="dora-needs-all-rows",
        )
    method = None if dispositions[0].method is None else METHODS[dispositions[0].method]
    if method is not None and method.statistics is not None:
        return 0
    if any(one.least_difference is not None for one in dispositions):
        return math.prod(tensor.batch[1:]) if tensor.batch is not None and tensor.batch[0] > 1 else 0
    if tensor.maps is not None and tensor.maps.runs > SCATTERED:
        return 0
    if takes_matrices(tensor, dispositions):
        assert tensor.batch is not None
        return tensor.batch[1] * tensor.batch[2] if tensor.batch[0] > 1 else 0
    if method is not None and method.access != "one pass":
        return 0
    return together


#: Elements that are merged before they are encoded, where no matrix is larger.
SLICE = 1 << 24


def slices_of(tensor: PlannedTensor, dispositions: Sequence[Disposition]) -> list[tuple[int, int]]:
    """The elements of a weight that is written in codes, in ranges that are merged and encoded one after the other.

    They end between blocks of the codec.
    """
    codec, count = codec_of(tensor.codec or ""), math.prod(tensor.shape)
    step = grain(tensor, dispositions)
    if step == 0:
        return [(0, count)]
    step = math.lcm(step, codec_grain(codec, len(tensor.shape) > 2))
    step *= max(1, SLICE // step)
    return [(first, min(first + step, count)) for first in range(0, count, step)]


def work(tensor: PlannedTensor, dispositions: Sequence[Disposition], elements: int, precision: str) -> Work:
    """Estimated operations by kind for ``elements`` of a tensor in all results.

    Of a matrix, the result with the most operations counts in full, each other one as one product.
    """
    if tensor.factor is not None:
        merging = work(tensor.dense, dispositions, tensor.factor.numel, precision)
        return pair_work(tensor.factor, merging, precision)
    works = [_work(tensor, disposition, elements, precision) for disposition in dispositions]
    coding = coding_work(tensor, dispositions, elements)
    if len(works) == 1 or tensor.batch is None or not takes_matrices(tensor, dispositions):
        return sum(works, coding)
    most = max(works, key=lambda one: one.flops)
    others = (len(works) - 1) * elements / math.prod(tensor.batch[1:])
    return coding + most + product_work(*tensor.batch[1:], precision) * others


def _work(tensor: PlannedTensor, disposition: Disposition, elements: int, precision: str) -> Work:
    if disposition.method is None:
        return Work()
    experts = len(tensor.sources) - 1
    measured = Work() if disposition.least_difference is None else difference_work(elements, experts)
    if tensor.batch is None:
        return _matrix_work(disposition.method, (), 1, elements, experts, precision) + measured
    _, rows, columns = tensor.batch
    if (rank := _factored_rank(tensor, disposition)) is not None:
        return factored_work(rows, columns, rank, experts, precision) * (elements / (rows * columns)) + measured
    each = _matrix_work(disposition.method, names(disposition.calibration), rows, columns, experts, precision)
    return each * (elements / (rows * columns)) + measured


@functools.lru_cache(maxsize=4096)
def _matrix_work(
    method: str, calibrations: tuple[str, ...], rows: int, columns: int, experts: int, precision: str
) -> Work:
    operations = METHODS[method].work(rows, columns, experts, precision)
    if (calibration := declared(calibrations)) is not None:
        operations += calibration.work(rows, columns, experts, precision)
    return operations


def _factored_rank(tensor: PlannedTensor, disposition: Disposition) -> int | None:
    """The sum of the ranks where a matrix is merged in its experts' factors; None where it is not."""
    if tensor.batch is None or disposition.method is None or not takes_matrices(tensor, [disposition]):
        return None
    calibration = declared(names(disposition.calibration))
    if not METHODS[disposition.method].has_factored_form(disposition.parameters or {}, calibration):
        return None
    ranks = tensor.ranks()
    return None if ranks is None else factored_rank(*tensor.batch[1:], ranks)


def memory(tensor: PlannedTensor, dispositions: Sequence[Disposition], precision: str, device: str = "cpu") -> int:
    """Peak memory in bytes: the largest result's, and what stays between two results, at most three matrices.

    On a device larger chunks, and the inputs that stay there.
    """
    if tensor.factor is not None:
        merging = memory(tensor.dense, dispositions, precision, device)
        return pair_memory(tensor.factor, merging, len(dispositions), precision)
    peak = max(_memory(tensor, disposition, precision, device) for disposition in dispositions)
    if not on_the_cpu(device) and takes_matrices(tensor, dispositions):
        peak += sum(_residents(tensor, dispositions, precision)) + memory_beside(tensor, dispositions, precision)
    peak += coding_memory(tensor, dispositions, _held(tensor, dispositions))
    if len(dispositions) > 1 and tensor.batch is not None and dispositions[0].method is not None:
        peak += 3 * 8 * math.prod(tensor.batch[1:])
    return peak


def _held(tensor: PlannedTensor, dispositions: Sequence[Disposition]) -> int:
    """How many elements lie in memory until they are encoded: those of a slice, unless that lies in scratch space."""
    if tensor.codec is None:
        return 0
    first, last = slices_of(tensor, dispositions)[0]
    return last - first if last - first <= SLICE else 0


def inputs_that_stay(tensor: PlannedTensor, dispositions: Sequence[Disposition], precision: str) -> int:
    """How many inputs of a matrix, base first, a device holds while it is merged."""
    return len(_residents(tensor, dispositions, precision))


def _residents(tensor: PlannedTensor, dispositions: Sequence[Disposition], precision: str) -> list[int]:
    peak = max(_memory(tensor, disposition, precision, "cpu") for disposition in dispositions)
    return sizes_that_fit(tensor, peak + memory_beside(tensor, dispositions, precision))


def _memory(tensor: PlannedTensor, disposition: Disposition, precision: str, device: str) -> int:
    chunk = CHUNK if on_the_cpu(device) else min(GRAIN, max(CHUNK, math.prod(tensor.shape)))
    chunked = memory_of_chunks(precision, chunk)
    if disposition.method is not None and METHODS[disposition.method].statistics is not None:
        chunked += memory_of_selection(math.prod(tensor.shape), precision)
    added = [one for each in (*tensor.factors, tensor.base_factors) for one in each or ()]
    if added:
        chunked += int(max(formed_memory(one.rows, one.columns, one.rank, precision) for one in added))
    if any(one.magnitude is not None for one in added):
        chunked += memory_of_chunks("float64", chunk)  # of the merged weight, to measure its rows
    if not takes_matrices(tensor, [disposition]):
        return chunked
    assert tensor.batch is not None
    assert disposition.method is not None
    _, rows, columns = tensor.batch
    if (rank := _factored_rank(tensor, disposition)) is not None:
        return int(factored_memory(rows, columns, rank, precision)) + chunked
    experts = len(tensor.sources) - 1
    peak = METHODS[disposition.method].memory(rows, columns, experts, precision)
    if (calibration := declared(names(disposition.calibration))) is not None:
        peak = max(peak, calibration.memory(rows, columns, experts, precision))
    if tensor.turned:
        peak += matrix_memory(rows, columns, precision)  # the result, turned back
    return int(peak) + chunked


class PieceCosts:
    """The costs of pieces of tensors: computed once for all that differ in nothing but where they are stored."""

    def __init__(self, dispositions: Sequence[Sequence[Disposition]], precision: str, device: str) -> None:
        """``dispositions``: by number, in all results."""
        self._dispositions, self._precision, self._device = dispositions, precision, device
        self._known: dict[tuple[Any, ...], dict[tuple[int, int], tuple[int, float, int]]] = {}

    def of(self, tensor: PlannedTensor, first: int, last: int) -> tuple[int, float, int]:
        """Of elements ``[first, last)``: bytes read, operations, and the peak of memory in bytes."""
        if tensor.factors or tensor.base_factors or tensor.factor is not None or tensor.maps is not None:
            return self._of(tensor, first, last)
        alike = structs.replace(tensor, name="", shard=0, start=0, end=0, sources=(), copies=(), tied_to=None)
        known = self._known.setdefault((alike, len(tensor.copies), *map(_stored, tensor.sources)), {})
        if (first, last) not in known:
            known[first, last] = self._of(tensor, first, last)
        return known[first, last]

    def _of(self, tensor: PlannedTensor, first: int, last: int) -> tuple[int, float, int]:
        decided = self._dispositions[tensor.disposition]
        bytes_in = sum(read.end - read.start for _, read in tensor.reads(first, last))
        operations = work(tensor, decided, last - first, self._precision)
        return bytes_in, operations.flops, self.memory(tensor, operations)

    def memory(self, tensor: PlannedTensor, operations: Work | None = None) -> int:
        """The peak of memory in bytes, with the solver's workspace. ``operations``: of a piece; None: of all of it."""
        decided = self._dispositions[tensor.disposition]
        operations = operations or work(tensor, decided, math.prod(tensor.shape), self._precision)
        return memory(tensor, decided, self._precision, self._device) + workspace(operations, self._device)


def workspace(operations: Work, device: str) -> int:
    """Bytes of a GPU that its eigensolver takes for a unit's largest decomposition; nothing on the CPU."""
    largest = max((size for size, _ in operations.eigen), default=0)
    return 0 if device == "cpu" else int(8 * WORKSPACE * largest * largest)


def _stored(source: InputRange | None) -> tuple[Any, ...] | None:
    """How an input stores a tensor, wherever that is."""
    if source is None:
        return None
    parts = len(source.parts) if source.codec is not None else tuple(map(_stored, source.parts))
    return source.input, source.dtype, source.end - source.start, source.codec, parts
