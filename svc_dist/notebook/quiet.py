"""Imports that warn in a notebook about widgets, which svc_dist does not use."""

from __future__ import annotations

import contextlib
import warnings
from importlib import import_module

from svc_dist.notebook.bar import in_notebook

_WARNS = "tqdm.auto"  # once, on its first import; huggingface_hub imports it


def import_without_warnings() -> None:
    """Import, in a notebook, what else would print a warning among the outputs of a merge."""
    if in_notebook():
        with warnings.catch_warnings(), contextlib.suppress(ImportError):
            warnings.simplefilter("ignore")
            import_module(_WARNS)
