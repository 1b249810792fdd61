"""Merge fine-tuned experts of very large models, out of core, on one machine or a Ray cluster.

- With a recipe: ``make_plan`` (``make_plans`` for several documents), ``doctor``, ``inspect``, ``predict`` look ahead,
  ``merge`` merges.
- With a merged model: ``status``, ``verify``, ``diff``, ``read_report``, ``write_report``.
- With tensors in memory: ``merge_state_dicts``, ``merge_deltas``, ``calibrate``.

Every error derives from ``SvcDistError``.
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from svc_dist.errors import PrintableRecords, SvcDistError

if TYPE_CHECKING:
    from svc_dist.api import (
        calibrate,
        diff,
        doctor,
        inspect,
        make_plan,
        make_plans,
        merge,
        merge_deltas,
        merge_state_dicts,
        predict,
        read_report,
        status,
        verify,
        write_report,
    )

__version__ = version("svc-dist")
__all__ = [
    "SvcDistError",
    "calibrate",
    "diff",
    "doctor",
    "inspect",
    "make_plan",
    "make_plans",
    "merge",
    "merge_deltas",
    "merge_state_dicts",
    "predict",
    "read_report",
    "status",
    "verify",
    "write_report",
]

logging.getLogger("svc_dist").addFilter(PrintableRecords())


def __dir__() -> list[str]:
    # So that completion and `help(svc_dist)` show the functions before their first use, and not what is imported here.
    return sorted({*__all__, "errors", *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    # Imported on first use: `import svc_dist` stays cheap, torch comes only with what needs it.
    if name in __all__:
        return getattr(import_module("svc_dist.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
