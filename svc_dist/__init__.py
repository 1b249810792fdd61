"""Merge fine-tuned experts of very large models, out of core, on one machine or a Ray cluster."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from svc_dist.errors import PrintableRecords, SvcDistError

if TYPE_CHECKING:
    from svc_dist.api import calibrate, inspect, make_plan, make_plans, merge, merge_deltas, merge_state_dicts, predict

__version__ = version("svc-dist")
__all__ = [
    "SvcDistError",
    "calibrate",
    "inspect",
    "make_plan",
    "make_plans",
    "merge",
    "merge_deltas",
    "merge_state_dicts",
    "predict",
]

logging.getLogger("svc_dist").addFilter(PrintableRecords())


def __getattr__(name: str) -> Any:
    # Imported on first use: `import svc_dist` stays cheap, torch comes only with what needs it.
    if name in __all__:
        return getattr(import_module("svc_dist.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
