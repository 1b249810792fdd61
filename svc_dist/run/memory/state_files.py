"""A state dict as the file of a checkpoint: its tensors' bytes are served from memory."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from svc_dist.checkpoint.checkpoint import CONFIG
from svc_dist.checkpoint.dtype import safetensors_dtype
from svc_dist.checkpoint.header import render_header
from svc_dist.checkpoint.weight_files import SINGLE_FILE
from svc_dist.errors import RecipeError, StorageError, printable
from svc_dist.storage.access import Access
from svc_dist.storage.base import FileIdentity, Storage
from svc_dist.storage.retry import Retries


class StateFiles(Storage):
    """The files of a model in memory: a safetensors file of its tensors, and its config if there is one.

    ``what``: the state dict, for messages. Raises RecipeError for a value that is no dense tensor.
    """

    read_only = "it is a state dict in memory"

    def __init__(
        self, location: str, state: Mapping[str, Tensor], what: str, config: Mapping[str, Any] | None, access: Access
    ) -> None:
        super().__init__(location, access)
        if not isinstance(state, Mapping):
            raise RecipeError(f"{what} is of type {type(state).__name__}, but must be a mapping of names to tensors")
        if odd := next((name for name in state if not isinstance(name, str)), None):
            raise RecipeError(f"{what} has the name {odd!r}, but names must be text")
        dtypes = {name: _dtype(value, f"{what}: {printable(name)}") for name, value in state.items()}
        self._header = render_header((name, dtype, tuple(state[name].shape)) for name, dtype in dtypes.items())
        self._files = {CONFIG: json.dumps(config).encode()} if config is not None else {}
        self._tensors = [tensor.detach() for tensor in state.values() if tensor.numel()]
        self._starts = [len(self._header)]
        for tensor in self._tensors:
            self._starts.append(self._starts[-1] + tensor.nbytes)

    def open(self, access: Access) -> Storage:
        return self

    def known(self, file: FileIdentity) -> FileIdentity:
        return file

    def names(self, folder: str = "", recursive: bool = False) -> list[str]:
        return [] if folder else sorted([SINGLE_FILE, *self._files])

    def stat(self, name: str) -> FileIdentity | None:
        if name == SINGLE_FILE:
            return FileIdentity(name, self._starts[-1], "memory")
        return FileIdentity(name, len(self._files[name]), "memory") if name in self._files else None

    def view(self, name: str, start: int, end: int) -> memoryview:
        number = bisect.bisect_right(self._starts, start) - 1
        if name == SINGLE_FILE and 0 <= number < len(self._tensors) and end <= self._starts[number + 1]:
            data = self._tensors[number].reshape(-1).view(torch.uint8)
            return data[start - self._starts[number] : end - self._starts[number]].cpu().numpy().data
        return memoryview(self.read(name, start, end))

    def read(self, name: str, start: int = 0, end: int | None = None, retries: Retries | None = None) -> bytes:
        if name != SINGLE_FILE:
            return self._files[name][start:end]
        end = self._starts[-1] if end is None else end
        pieces = [self._header[start:end]]
        for first, last in zip(self._starts, self._starts[1:], strict=False):
            low, high = max(start, first), min(end, last)
            if low < high:
                pieces.append(bytes(self.view(name, low, high)))
        return b"".join(pieces)

    def get(self, name: str) -> bytes | None:
        return self.read(name) if self.stat(name) is not None else None

    def require_unchanged(self, file: FileIdentity) -> None:
        """Nobody else writes it while it is merged."""

    def put(self, name: str, data: bytes) -> None:
        raise StorageError(f"{self.location}: {self.read_only}")

    def delete(self, name: str) -> None:
        raise StorageError(f"{self.location}: {self.read_only}")


def _dtype(value: object, what: str) -> str:
    """The safetensors dtype of a tensor. Raises RecipeError for anything that a file could not hold."""
    if not isinstance(value, Tensor):
        raise RecipeError(f"{what} is of type {type(value).__name__}, but must be a tensor", "leave it out")
    if hasattr(value, "full_tensor"):
        raise RecipeError(f"{what} is a part of a tensor on several devices", "pass its .full_tensor()")
    if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
        raise RecipeError(f"{what} is a {value.layout} tensor on {value.device}, but must be dense", "leave it out")
    dtype = safetensors_dtype(value.dtype)
    if dtype is None:
        raise RecipeError(f"{what} has dtype {value.dtype}, which no safetensors file holds", "leave it out")
    return dtype
