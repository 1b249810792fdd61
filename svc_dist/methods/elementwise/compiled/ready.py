"""Whether compiled loops are there."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from typing import Any

from svc_dist.errors import is_installed

_log = logging.getLogger("svc_dist")
_WORTH_LOADING = 1 << 20  # entries of a tensor


def loops(size: int) -> Any:
    """The module of compiled loops for a tensor of ``size`` entries; None without numba, or where it is not worth it.

    Loading takes about a second, the first time on a machine several: a model of small tensors is merged before that.
    The bytes of every result are the same with and without.
    """
    return _loaded() if size >= _WORTH_LOADING or _loaded.cache_info().currsize else None


@functools.cache
def _loaded() -> Any:
    if sys.byteorder != "little" or not is_installed("numba"):
        return None
    try:
        return importlib.import_module("svc_dist.methods.elementwise.compiled.loops")
    except Exception as error:  # numba is too old, broken, or made for another numpy: torch does the same
        _log.debug(f"numba is not used: {error}")
        return None
