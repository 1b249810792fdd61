"""A GPU that is only pretended: tensors that say they are on ``cuda:0`` and compute on the CPU; and counts of what a
device does, real or pretended: launches, waits, bytes each way, and of a pretended one the memory that is held.

What it is good for: code that mixes devices or waits too often, and plans of memory. What it says nothing about: time,
streams, and what CUDA's libraries refuse.
"""

from __future__ import annotations

import ctypes
import gc
import types
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only

from svc_dist.linalg.devices.streams import own_stream

CUDA = torch.device("cuda", 0)
MEMORY = 80 * 10**9
_MOVES = {"aten::_to_copy", "aten::copy_"}
_ASKED = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}  # their answer is a number of the host's
_SHAPED_BY_DATA = {"aten::nonzero", "aten::masked_select", "aten::_unique2"}
_NO_KERNEL = {"aten::empty", "aten::empty_strided", "aten::empty_like", "aten::new_empty", "aten::detach"}
_INDEXED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}


@dataclass
class Counts:
    """What a device did. ``waits``: how often the host waited for it; ``sent``, ``received``: bytes."""

    launches: int = 0
    waits: int = 0
    sent: int = 0
    received: int = 0
    held: int = 0
    peak: int = 0
    pinned: set[int] = field(default_factory=set, repr=False)
    _storages: dict[int, int] = field(default_factory=dict, repr=False)

    def reset(self) -> None:
        gc.collect()  # what an earlier test left in cycles, such as a traceback's tensors
        self.launches = self.waits = self.sent = self.received = 0
        self.peak = self.held

    def note(self, name: str, func: Any, args: Any, kwargs: Any, on_device: bool) -> None:
        """Count one operation of torch. ``on_device``: its result is there."""
        if name in _MOVES:
            source = args[1] if name == "aten::copy_" else args[0]
            was_there, size = source.device.type == "cuda", source.numel() * source.element_size()
            if was_there and not on_device:
                self.received += size
                self.waits += 1
            elif on_device and not was_there:
                self.sent += size
                self.launches += 1
                self.waits += not self._is_pinned(source)
            elif on_device:
                self.launches += 1
        elif on_device and name in _ASKED:
            self.waits += 1
        elif on_device and name not in _NO_KERNEL and not _is_view(func):
            self.launches += 1
            self.waits += name in _SHAPED_BY_DATA

    def _is_pinned(self, source: Tensor) -> bool:
        return source.untyped_storage().data_ptr() in self.pinned or bool(source.is_pinned())

    def hold(self, tensor: Tensor, storage: torch.UntypedStorage) -> None:
        """Count a storage of the pretended device until the last of its tensors is gone."""
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self._storages:
            self.held += size
            self.peak = max(self.peak, self.held)
        self._storages[place] = self._storages.get(place, 0) + 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self._storages[place] -= 1
        if not self._storages[place]:
            del self._storages[place]
            self.held -= size


COUNTS = Counts()


class OnDevice(Tensor):
    """A tensor of the pretended device; ``elem`` holds its numbers."""

    elem: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype,
            layout=elem.layout, device=CUDA, requires_grad=False,
        )  # fmt: skip
        made.elem = elem
        COUNTS.hold(made, elem.untyped_storage())
        return made

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _pretend(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """What this thread asks of ``cuda`` goes to the pretended device, and is counted."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _pretend(func, args, kwargs or {})


class Counting(TorchDispatchMode):
    """What this thread asks of a real device is counted."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        COUNTS.note(func._schema.name, func, args, kwargs, _lands_on_device(func._schema.name, args, kwargs))
        return func(*args, **kwargs)


def _lands_on_device(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if (asked := kwargs.get("device")) is not None:
        return torch.device(asked).type == "cuda"
    if name == "aten::copy_":
        return bool(args[0].device.type == "cuda")
    return any(one.device.type == "cuda" for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor))


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _pretend(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, on_device = func._schema.name, _lands_on_device(func._schema.name, args, kwargs)
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    strange = [one for one in tensors if not isinstance(one, OnDevice) and one.dim() > 0]
    indexed = name in _INDEXED and isinstance(args[0], OnDevice)
    if on_device and strange and len(strange) < len(tensors) and name not in _MOVES and not indexed:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found two, cuda:0 and cpu! ({name})")
    COUNTS.note(name, func, args, kwargs, on_device)
    if indexed:
        COUNTS.waits += len(strange)  # indices of the host's are copied
    given = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if "device" in given:
        given["device"] = torch.device("cpu")
    if name == "aten::_to_copy":
        given.pop("non_blocking", None)
    bare_args, bare_kwargs = tree_map_only(OnDevice, lambda one: one.elem, (args, given))
    result = func(*bare_args, **bare_kwargs)
    if kwargs.get("pin_memory"):
        _note_pinned(result)
    if func._schema.is_mutable:
        return _what_was_given(func, args, kwargs)
    if name in _ASKED or not on_device:
        return result
    return tree_map_only(Tensor, OnDevice, result)


def _what_was_given(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The answer of an operation that writes into its arguments: these."""
    written = [
        args[place] if place < len(args) else kwargs.get(one.name)
        for place, one in enumerate(func._schema.arguments)
        if one.alias_info is not None and one.alias_info.is_write
    ]
    if not func._schema.returns:
        return None
    return written[0] if len(written) == 1 else tuple(written)


def _pinned(tensor: Tensor, *_: Any) -> Tensor:
    return _note_pinned(tensor.clone(memory_format=torch.contiguous_format))


def _note_pinned(tensor: Tensor) -> Tensor:
    place = tensor.untyped_storage().data_ptr()
    COUNTS.pinned.add(place)
    weakref.finalize(tensor, COUNTS.pinned.discard, place)
    return tensor


@contextmanager
def _guard_of_the_cpu() -> Iterator[None]:
    """Let the guard of CUDA devices be the CPU's, which does nothing: a build without CUDA has none, and indexing asks.

    The registry is an array of pointers by type of device: the CPU's is the first, CUDA's the second.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before, registry[1] = registry[1], registry[1] or registry[0]
    try:
        yield
    finally:
        registry[1] = before


@contextmanager
def _in_mode(mode: type[TorchDispatchMode], device: str) -> Iterator[None]:
    if not device.startswith("cuda"):
        yield
        return
    with own_stream(device), mode():
        yield


@contextmanager
def counted_units(pretended: bool = True) -> Iterator[Counts]:
    """Count what units do on the device. ``pretended``: there is none, and torch says that there is one."""
    mode = Pretending if pretended else Counting
    with ExitStack() as stack:
        if pretended:
            stack.enter_context(pretended_device())
            stack.enter_context(mock.patch("svc_dist.run.devices.cuda.has_driver", return_value=True))
        stream = mock.patch("svc_dist.run.devices.fallback.own_stream", lambda device: _in_mode(mode, device))
        stack.enter_context(stream)
        COUNTS.reset()
        yield COUNTS


@contextmanager
def pretended_device() -> Iterator[None]:
    """torch as it looks where there is a GPU. What is to run there also needs ``Pretending()``, thread by thread."""
    quantile = Tensor.quantile  # changes the shape of its own result, which a tensor of this kind cannot follow

    def quantile_of(one: Tensor, *rest: Any, **more: Any) -> Tensor:
        if not isinstance(one, OnDevice):
            return quantile(one, *rest, **more)
        with _disable_current_modes():
            return OnDevice(quantile(one.elem, *rest, **more))

    patches: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda *_: types.SimpleNamespace(total_memory=MEMORY, name="pretended"),
        "get_device_name": lambda *_: "pretended",
        "empty_cache": lambda: None,
        "synchronize": lambda *_: None,
        "set_per_process_memory_fraction": lambda *_: None,
        "_lazy_init": lambda: None,
    }
    to = Tensor.to

    def to_of(one: Tensor, *rest: Any, **more: Any) -> Tensor:
        """A device without a number is this one: torch would ask CUDA which."""

        def numbered(item: Any) -> Any:
            named = isinstance(item, str | torch.device) and torch.device(item).type == "cuda"
            return CUDA if named else item

        return to(one, *map(numbered, rest), **{name: numbered(item) for name, item in more.items()})

    with ExitStack() as stack:
        stack.enter_context(_guard_of_the_cpu())
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for name, value in {"pin_memory": _pinned, "quantile": quantile_of, "to": to_of}.items():
            stack.enter_context(mock.patch.object(Tensor, name, value))
        yield
