"""The command's first and last instants: what can start before Python has imported the rest, and what need not end.

Importing this loads nothing of the package but its door and its errors.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from svc_dist.errors import ExitCode

_OBJECTS = 50_000  # new ones after which garbage is collected: imports make hundreds of thousands that stay
_ended: list[int] = []  # the exit code, once it is known


def main() -> None:
    """Entry point: runs the command and ends the process with the documented exit code."""
    gc.set_threshold(_OBJECTS, 20, 50)
    open_closed_streams()
    for number in (signal.SIGTERM, signal.SIGINT):  # until the command has its own handlers
        signal.signal(number, _stop)
    if merges_here(sys.argv[1:]) and _in_a_folder():
        threading.Thread(target=load_library, name="load-torch", daemon=True).start()
    atexit.register(_end)  # the first to be registered is the last to be called
    from svc_dist.cli.process import main as run

    try:
        run()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _ended.append(end.code or 0)
        raise


def open_closed_streams() -> None:
    """Have a standard stream that is closed lead nowhere.

    The next file that is opened would get its number, and what libraries write to standard error would go into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)  # or child processes would lack it again
            setattr(sys, name, os.fdopen(descriptor, "r" if number == 0 else "w"))


def _stop(number: int, frame: object) -> None:
    """Nothing has begun, and what is imported now cannot be interrupted halfway."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted; run the same command again to resume\n")
    os._exit(ExitCode.TRY_AGAIN)


def merges_here(arguments: Sequence[str]) -> bool:
    """Whether a command will need torch in this process, as far as its arguments tell at a glance."""
    elsewhere = any(one.startswith("--address") or one in ("ray", "--executor=ray") for one in arguments)
    merges = arguments[:1] in (["merge"], ["batch"])
    return merges and not elsewhere and "--help" not in arguments and "-h" not in arguments


def _in_a_folder() -> bool:
    """Whether there is a working folder; without one, torch's library ends the process with a message of its own."""
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def load_library() -> None:
    """Load torch's largest library, which takes a sixth of its import, without Python's lock.

    Importing torch finds it loaded. What fails here fails there again, with torch's own message.
    """
    found = importlib.util.find_spec("torch")
    if sys.platform != "linux" or found is None or not found.submodule_search_locations:
        return
    folder = Path(found.submodule_search_locations[0]) / "lib"
    dlopen = ctypes.CDLL(None).dlopen  # a call by ctypes releases the lock, ``ctypes.CDLL(path)`` does not
    dlopen.restype, dlopen.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    for name, mode in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch_cpu.so", os.RTLD_LOCAL)):
        if not dlopen(os.fsencode(folder / name), os.RTLD_NOW | mode):  # torch's own order, and its own modes
            return


def _end() -> None:
    """End the process without taking it apart: to free every module and object of torch takes as long as a plan."""
    if not _ended:
        return
    for finish in (logging.shutdown, sys.stdout.flush, sys.stderr.flush):
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more, or a stream is closed
            finish()
    os._exit(_ended[0])
