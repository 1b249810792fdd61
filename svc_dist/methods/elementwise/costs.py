"""What element-wise methods cost, and what chunks of any tensor take."""

from __future__ import annotations

from svc_dist.methods.chunking import CHUNK, COLLECTED, SAMPLE
from svc_dist.methods.costs import Operations, Work, item_size, matrix_memory


def linear_work(m: int, n: int, k: int, precision: str) -> Work:
    """A weighted sum."""
    return Work(elementwise=float((3 * k + 2) * m * n))


def per_entry(operations: float) -> Operations:
    """A cost of ``operations`` per entry and expert."""
    return lambda m, n, k, precision: Work(elementwise=operations * k * m * n)


def of_result(m: int, n: int, k: int, precision: str) -> float:
    """The merged matrix, where an element-wise method is calibrated."""
    return matrix_memory(m, n, precision)


def memory_of_chunks(precision: str, chunk: int = CHUNK) -> int:
    """Anonymous bytes that arithmetic and writing in chunks of that size take, whatever the tensor's size."""
    return 12 * chunk * item_size(precision) + (4 << 20)


def memory_of_selection(numel: int, precision: str) -> int:
    """Anonymous bytes that the first pass over a tensor of ``numel`` entries takes: a sample, and what it collects."""
    return (4 * min(numel, SAMPLE) + 2 * min(numel, COLLECTED)) * item_size(precision)
