"""Views of parts laid one after the other: an input that stores in several tensors what the merge has as one."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from svc_dist.checkpoint.dtype import FLOAT_DTYPES, bytes_of, torch_dtype
from svc_dist.checkpoint.tensor_view import tensor_view
from svc_dist.storage.base import os_errors
from svc_dist.storage.fetching import SCRATCH_HINTS
from svc_dist.storage.reading import map_read_only

_PIECE = 2 << 20  # elements copied at a time


class JoinedViews:
    """Copies in one file in the folder ``scratch``, which disappears with the last view.

    A file and not memory: its pages can leave it, so that memory does not grow with the number of experts.
    """

    def __init__(self, scratch: str | None) -> None:
        self._scratch = scratch
        self._descriptor: int | None = None
        self._size = 0

    def __enter__(self) -> JoinedViews:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def view(self, views: Iterable[Tensor], elements: int, dtype: str) -> Tensor:
        """One flat view of these, in order, of the safetensors dtype ``dtype``; ``elements``: of all together."""
        size = bytes_of(dtype, elements)
        if not size:
            return tensor_view(memoryview(b""), dtype)
        with self._errors():
            descriptor, start = self._placed(size)
            position = start
            for view in views:
                for first in range(0, view.numel(), _PIECE):
                    position = _written(descriptor, _bytes(view[first : first + _PIECE], dtype), position)
            mapped = map_read_only(descriptor, size, start)
        return tensor_view(memoryview(mapped), dtype)

    def room(self, elements: int, dtype: str) -> Tensor:
        """A flat tensor of the safetensors dtype ``dtype`` to write into."""
        size = bytes_of(dtype, elements)
        if not size:
            return torch.empty(0, dtype=torch_dtype(dtype))
        with self._errors():
            descriptor, start = self._placed(size)
            mapped = mmap.mmap(descriptor, size, offset=start)
        return torch.frombuffer(mapped, dtype=torch_dtype(dtype))

    def _errors(self) -> AbstractContextManager[None]:
        return os_errors(f"cannot use scratch space in {self._scratch or tempfile.gettempdir()}", SCRATCH_HINTS)

    def _placed(self, size: int) -> tuple[int, int]:
        """The open file, and where in it so many new bytes begin."""
        descriptor = self._opened()
        start = -(-self._size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._size = start + size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, start, size)  # a full disk shows here, not as a bus error later
        else:
            os.ftruncate(descriptor, self._size)
        return descriptor, start

    def _opened(self) -> int:
        if self._descriptor is None:
            if self._scratch is not None:
                Path(self._scratch).mkdir(parents=True, exist_ok=True)
            self._descriptor, path = tempfile.mkstemp(prefix="svc-dist-joined-", dir=self._scratch)
            Path(path).unlink()
        return self._descriptor


def _bytes(view: Tensor, dtype: str) -> memoryview:
    """A flat piece as bytes, in another dtype of weights if it has another one."""
    if dtype in FLOAT_DTYPES and view.dtype != torch_dtype(dtype):
        view = view.to(torch_dtype(dtype))
    return view.view(torch.uint8).numpy().data


def _written(descriptor: int, data: memoryview, position: int) -> int:
    """The position after the data, written at ``position``."""
    while len(data):
        count = os.pwrite(descriptor, data, position)
        data, position = data[count:], position + count
    return position
