"""How many threads torch and the BLAS behind scipy compute with, fixed while work is in flight.

The last bits of a matrix product depend on this number, and OpenBLAS returns other bits still when its number is set
while another thread is inside it. So every library is loaded and set before the first unit of a process starts, and
none is while one runs.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from svc_dist.errors import RecipeError

_lock = threading.Condition()
_in_force: tuple[int | None] | None = None  #: the number of threads; None where only BLAS has one
_users = 0
_fixed = False
_blas: int | None = None  #: the number of threads of the BLAS libraries while they are held
_undo: list[Callable[[], object]] = []
_held = threading.local()  # how many holds this thread is inside of


def fix_threads(count: int) -> None:
    """Set the number of threads of this process for good. For worker processes, before they start work."""
    global _in_force, _users, _fixed
    with _lock:
        torch.set_num_threads(count)
        _apply(count)
        _undo.clear()
        _in_force = (count,)
        _users += not _fixed
        _fixed = True


@contextmanager
def threads_fixed(count: int | None = None) -> Iterator[None]:
    """Hold the number of threads of this process at ``count``; afterwards all is as it was.

    It is in force in threads that start meanwhile, and for BLAS everywhere; threads that have used torch before keep
    their number. Several may hold the same number: the first sets it, and the last one to leave restores. None, for
    work on one tensor: only BLAS changes, to torch's number in this thread; it waits for such work in threads with
    another number, and beside units it takes theirs. Raises RecipeError when another number is held.
    """
    global _in_force, _users, _blas
    number = torch.get_num_threads()  # a new thread takes over what is in force when it first asks
    with _lock:
        if count is not None:
            _lock.wait_for(lambda: _in_force is None or _in_force[0] is not None)
        elif not _depth():
            _lock.wait_for(lambda: _in_force is None or _in_force[0] is not None or _blas == number)
        if _in_force is None:
            if count is None:
                _apply(number)
            else:
                before = _in_new_thread(torch.get_num_threads)
                _in_new_thread(functools.partial(torch.set_num_threads, count))
                _undo.append(lambda: _in_new_thread(functools.partial(torch.set_num_threads, before)))
                _apply(count)
            _in_force = (count,)
        elif count is not None and _in_force != (count,):
            raise RecipeError(
                f"units with {_in_force[0]} threads run in this process, none with {count} can run beside them",
                "wait for the other merge, or run each in a process of its own",
            )
        _users += 1
        _held.depth = _depth() + 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            _held.depth = max(0, _depth() - 1)
            if not _users:
                while _undo:
                    _undo.pop()()
                _in_force = _blas = None
                _lock.notify_all()


def load_lapack() -> Any:
    """``scipy.linalg.cython_lapack``."""
    from scipy.linalg import cython_lapack

    return cython_lapack


def _depth() -> int:
    return getattr(_held, "depth", 0)


def _apply(count: int) -> None:
    _apply_blas(count)
    _apply_full_products()


def _apply_full_products() -> None:
    """Have products of float32 computed in float32: by torch's settings a GPU may round to TF32, a CPU to bfloat16."""
    matmul: Any = torch.backends.cuda.matmul
    before = getattr(matmul, "fp32_precision", None)  # torch 2.9 and later
    try:
        _undo.append(functools.partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    except RuntimeError:  # the caller has set it by the newer interface, beside which torch refuses to read the older
        _undo.append(functools.partial(setattr, matmul, "fp32_precision", before))
    torch.set_float32_matmul_precision("highest")


@functools.cache
def _libraries() -> list[Any]:
    """The BLAS libraries of this process. scipy's is loaded for it: none may come in while work is in flight."""
    from threadpoolctl import ThreadpoolController

    load_lapack()
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _apply_blas(count: int) -> None:
    global _blas
    _blas = count
    for library in _libraries():
        if library.num_threads != count:
            _undo.append(functools.partial(_set, library, library.num_threads))
            _set(library, count)


def _set(library: Any, count: int) -> None:
    """Set a library's number. threadpoolctl silently ignores all threads but the first that set OpenBLAS's."""
    release = getattr(library, "clear_controlling_thread", lambda force: None)
    release(force=True)
    library.set_num_threads(count)
    release(force=True)


def _in_new_thread(call: Callable[[], Any]) -> Any:
    """Call in a thread that has not used torch: there torch's number is the process's, and not this thread's own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]
