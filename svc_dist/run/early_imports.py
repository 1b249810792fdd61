"""What a run in this process imports in the background, while it plans and reads headers: torch takes seconds."""

from __future__ import annotations

import contextlib
import threading
from importlib import import_module

from svc_dist.run.options import Options

#: What units wait for, in this order, then what publishing does.
_NEEDED = ("torch", "svc_dist.run.unit", "huggingface_hub.repocard")


def import_torch(options: Options) -> threading.Thread | None:
    """Start the imports where units will run in this process. Dry plans do not come here."""
    if options.executor == "ray" or options.address is not None:
        return None
    thread = threading.Thread(target=_import_all, name="import-torch", daemon=True)
    thread.start()
    return thread


def _import_all() -> None:
    with contextlib.suppress(ImportError, OSError):  # each fails again where it is needed, with its own error
        for name in _NEEDED:
            import_module(name)
