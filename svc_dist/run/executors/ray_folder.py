"""Where Ray puts its sockets: their paths must be short, and the temporary folders of batch jobs often are not."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from svc_dist.errors import RecipeError

_log = logging.getLogger("svc_dist")
#: Bytes of a Unix socket's path, at most.
_LONGEST = 107 if sys.platform == "linux" else 103
#: What Ray adds to its temporary folder.
_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
_SHORT = "/tmp/ray"  # Ray's own default


def temporary_folder() -> dict[str, Any]:
    """Options of ``ray.init``: a short temporary folder where that of the environment is too long for sockets.

    Raises RecipeError where RAY_TMPDIR is too long, or no short folder can be written to.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    if variable is None or fits(f"{os.environ[variable].rstrip('/')}/ray"):
        return {}
    longest = _LONGEST - len(_SOCKET) - len("/ray")
    text = f"{variable}={os.environ[variable]} is too long: Ray's sockets in it pass the system's limit for their paths"
    if variable == "RAY_TMPDIR" or not _is_usable(_SHORT):
        raise RecipeError(
            text, f"set RAY_TMPDIR to a folder whose path has at most {longest} characters, or use --executor inline"
        )
    _log.warning(f"warning: {text}: Ray uses {_SHORT} (set RAY_TMPDIR to another short path)")
    return {"_temp_dir": _SHORT}


def fits(folder: str) -> bool:
    """Whether Ray's sockets in a temporary folder have paths that are short enough."""
    return len(os.fsencode(folder)) + len(_SOCKET) <= _LONGEST


def _is_usable(folder: str) -> bool:
    existing = folder if os.path.isdir(folder) else os.path.dirname(folder)  # noqa: PTH112, PTH120
    return os.access(existing, os.W_OK | os.X_OK)
