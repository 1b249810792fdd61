"""The command's first and last instants: what can start before Python has imported the rest, and what need not end.

Importing this loads nothing of the package but its door.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

_OBJECTS = 50_000  # new ones after which garbage is collected: imports make hundreds of thousands that stay
_ended: list[int] = []  # the exit code, once it is known


def main() -> None:
    """Entry point: runs the command and ends the process with the documented exit code."""
    gc.set_threshold(_OBJECTS, 20, 50)
    if merges_here(sys.argv[1:]):
        threading.Thread(target=load_library, name="load-torch", daemon=True).start()
    atexit.register(_end)  # the first to be registered is the last to be called
    from svc_dist.cli.process import main as run

    try:
        run()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _ended.append(end.code or 0)
        raise


def merges_here(arguments: Sequence[str]) -> bool:
    """Whether a command will need torch in this process, as far as its arguments tell at a glance."""
    elsewhere = any(one.startswith("--address") or one in ("ray", "--executor=ray") for one in arguments)
    merges = arguments[:1] in (["merge"], ["batch"])
    return merges and not elsewhere and "--help" not in arguments and "-h" not in arguments


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
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # nobody reads any more, or a stream is closed: Python ends the process its way
        return
    os._exit(_ended[0])
