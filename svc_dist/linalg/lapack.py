"""Symmetric eigendecompositions on the processor in three steps of LAPACK, without the interpreter's lock.

Tridiagonal form (``dsytrd``), eigenvalues (``dsterf``), and then only as many eigenvectors as are wanted (``dstemr``,
the method of multiple relatively robust representations), transformed back to the matrix in the precision asked for.
The routines are scipy's, reached through the addresses that it publishes for C callers
(``scipy.linalg.cython_lapack``), called without the interpreter's lock.

Why not ``scipy.linalg.eigh``: it holds the lock throughout, so that no other thread of the process reads, writes or
sends a heartbeat. Measured by ``benchmarks/eigen.py`` for all vectors of n = 2048, one BLAS thread, on a busy machine:
another thread waited up to 0.2 s here, 27 s beside ``driver="evr"`` and 18 s beside ``"evd"``; processor seconds 2.9,
2.9 and 3.2; peak memory 44, 66 and 68 MiB. ``torch.linalg.eigh`` releases the lock, and took 4.3 s and 96 MiB.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from svc_dist.linalg.threads import load_lapack

_PANEL = 192  # reflectors applied at once
_ALL_AT_ONCE = 4096  # up to this size a full set of vectors is small enough to be found for a part of it


class NotConvergedError(ArithmeticError):
    """LAPACK reports that an eigenvalue or eigenvector was not found."""


def usable(matrix: Tensor) -> bool:
    """Whether these routines apply: a contiguous float64 matrix in the processor's memory."""
    return matrix.device.type == "cpu" and matrix.dtype == torch.float64 and matrix.is_contiguous()


class Tridiagonal:
    """A symmetric ``(n, n)`` matrix as ``Q T Q^T`` with T tridiagonal. Takes the matrix's memory for Q."""

    def __init__(self, matrix: Tensor) -> None:
        self.size = size = len(matrix)
        self._reflectors = matrix  # by columns: the lower triangle of LAPACK is our upper one
        self._diagonal, self._beside, self._tau = (matrix.new_empty(size) for _ in range(3))
        _with_workspace(
            matrix,
            lambda work, length, info: _routine("dsytrd")(
                b"L", _int(size), _at(matrix), _int(size), _at(self._diagonal), _at(self._beside), _at(self._tau),
                work, length, info,
            ),
        )  # fmt: skip

    def values(self) -> Tensor:
        """All eigenvalues, ascending. Raises NotConvergedError."""
        values, beside = self._diagonal.clone(), self._beside.clone()
        info = ctypes.c_int()
        _routine("dsterf")(_int(self.size), _at(values), _at(beside), ctypes.byref(info))
        _check(info)
        return values

    def vectors(self, count: int, dtype: torch.dtype) -> Tensor:
        """The eigenvectors of the ``count`` largest eigenvalues, ``(n, count)``, descending, as ``dtype``.

        Those of T are found in float64; ``dtype`` is that of the product with Q. Raises NotConvergedError.
        """
        rows = _narrowed(self._inner_vectors(count), dtype)
        for start in range(max(0, (self.size - 2) // _PANEL * _PANEL), -1, -_PANEL):
            self._reflect(rows, start, min(start + _PANEL, self.size - 1))
        _reverse(rows)
        return rows.T

    def _reflect(self, rows: Tensor, start: int, end: int) -> None:
        """Multiply the vectors, which are ``rows``, by the reflectors ``[start, end)`` of Q.

        Together they are ``I - V T V^T`` with ``T^-1 = triu(V^T V, 1) + diag(1/tau)`` (Puglisi 1992, SIAM J. Sci. Stat.
        Comput. 13).
        """
        tau = self._tau[start:end]
        vectors = self._reflectors[start:end, start + 1 :].triu(1)
        vectors.diagonal().fill_(1)
        vectors[tau == 0] = 0  # the identity
        inverse = (vectors @ vectors.T).triu(1)
        inverse.diagonal().copy_(torch.where(tau == 0, 1, 1 / tau))
        triangle = torch.linalg.solve_triangular(inverse, torch.eye(len(tau)).to(inverse), upper=True).to(rows.dtype)
        vectors = vectors.to(rows.dtype)
        inner = (rows[:, start + 1 :] @ vectors.T) @ triangle.T
        rows[:, start + 1 :].addmm_(inner, vectors, alpha=-1)

    def _inner_vectors(self, count: int) -> Tensor:
        """The eigenvectors of T for its ``count`` largest eigenvalues, as rows ``(count, n)``, ascending."""
        size, like = self.size, self._diagonal
        if size // 4 < count < size <= _ALL_AT_ONCE:  # LAPACK takes longer for a large part than for all
            return self._inner_vectors(size)[size - count :]
        found = like.new_empty(count, size)
        if count == 0:
            return found
        diagonal, beside = self._diagonal.clone(), self._beside.clone()
        values, work = like.new_empty(size), like.new_empty(18 * size)
        support = torch.empty(2 * size, dtype=torch.int32)
        integers = torch.empty(10 * size, dtype=torch.int32)
        number, info, robust = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(1)
        nothing = ctypes.byref(ctypes.c_double())
        _routine("dstemr")(
            b"V", b"A" if count == size else b"I", _int(size), _at(diagonal), _at(beside), nothing, nothing,
            _int(size - count + 1), _int(size), ctypes.byref(number), _at(values), _at(found), _int(size),
            _int(count), _at(support), ctypes.byref(robust), _at(work), _int(18 * size), _at(integers),
            _int(10 * size), ctypes.byref(info),
        )  # fmt: skip
        if info.value or number.value != count:
            del found, work
            found = self._by_divide_and_conquer()[size - count :]
        return found

    def _by_divide_and_conquer(self) -> Tensor:
        """All eigenvectors of T, as rows, ascending, by ``dstevd``: where many eigenvalues agree the other gives up."""
        size, like = self.size, self._diagonal
        diagonal, beside = self._diagonal.clone(), self._beside.clone()
        found, work = like.new_empty(size, size), like.new_empty(1 + 4 * size + size * size)
        integers, info = torch.empty(3 + 5 * size, dtype=torch.int32), ctypes.c_int()
        _routine("dstevd")(
            b"V", _int(size), _at(diagonal), _at(beside), _at(found), _int(size), _at(work), _int(len(work)),
            _at(integers), _int(len(integers)), ctypes.byref(info),
        )  # fmt: skip
        _check(info)
        return found


def svd_in_place(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``U (m, m)`` and ``s (m)`` of ``A = U diag(s) V^T (m, n)``, ``m <= n``; ``V^T`` takes the place of ``A``.

    ``dgesvd``: slower than ``dgesdd``, which torch calls, and with a fraction of its memory. Raises NotConvergedError.
    """
    rows, columns = matrix.shape  # by columns: LAPACK sees A^T
    values, left, info = matrix.new_empty(rows), matrix.new_empty(rows, rows), ctypes.c_int()
    work = matrix.new_empty(64 * (rows + columns))
    _routine("dgesvd")(
        b"O", b"A", _int(columns), _int(rows), _at(matrix), _int(columns), _at(values), _at(matrix), _int(columns),
        _at(left), _int(rows), _at(work), _int(len(work)), ctypes.byref(info),
    )  # fmt: skip
    _check(info)
    return left, values


def _narrowed(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """``rows`` as ``dtype``: a narrower one in their own memory, which is the largest there is beside the matrix."""
    if dtype.itemsize >= rows.itemsize or rows.untyped_storage().nbytes() > rows.nbytes:
        return rows.to(dtype)
    narrow = rows.view(-1).view(dtype)[: rows.numel()].view(rows.shape)
    for start in range(0, len(rows), _PANEL):  # each ends before the next of ``rows`` begins
        narrow[start : start + _PANEL] = rows[start : start + _PANEL].to(dtype)
    return narrow


def _reverse(rows: Tensor) -> None:
    """Reverse the order of the rows, in place and without a second copy."""
    count = len(rows)
    for start in range(0, count // 2, _PANEL):
        end = min(start + _PANEL, count // 2)
        upper, lower = rows[start:end], rows[count - end : count - start]
        kept = upper.flip(0)
        upper.copy_(lower.flip(0))
        lower.copy_(kept)


def _with_workspace(like: Tensor, call: Callable[..., None]) -> None:
    """Call a routine twice: for the workspace that it likes, and with it."""
    info, best = ctypes.c_int(), ctypes.c_double()
    call(ctypes.byref(best), _int(-1), ctypes.byref(info))
    _check(info)
    work = like.new_empty(int(best.value))
    call(_at(work), _int(len(work)), ctypes.byref(info))
    _check(info)


def _check(info: ctypes.c_int) -> None:
    if info.value:
        raise NotConvergedError(f"LAPACK info {info.value}")


def _int(value: int) -> object:
    return ctypes.byref(ctypes.c_int(value))


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@functools.cache
def _routine(name: str) -> Callable[..., None]:
    """A LAPACK routine of scipy's. ctypes lets other threads run while it works."""
    capsule = load_lapack().__pyx_capi__[name]
    python = ctypes.pythonapi
    python.PyCapsule_GetName.restype, python.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = python.PyCapsule_GetPointer(capsule, python.PyCapsule_GetName(capsule))
    routine: Callable[..., None] = ctypes.CFUNCTYPE(None)(address)
    return routine
