"""Merges in processes of their own, some of which die at a chosen call to the store.

The processes are forked off one that has imported everything, so that a start takes tenths of a second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from typing import Any

import botocore.session  # noqa: F401
import rich.progress  # noqa: F401
import scipy.linalg  # noqa: F401
import torch  # noqa: F401
import typer  # noqa: F401

import svc_dist
from svc_dist.checkpoint import layout
from svc_dist.run import session, unit, worker  # noqa: F401
from svc_dist.run_folder.segments import ledger
from svc_dist.storage.s3.storage import S3Storage
from tests.support.forked import fork

DIED = 9


@dataclass(frozen=True)
class Death:
    """The process ends right before, or right after, the ``nth`` call of a method for a name that holds ``name``."""

    method: str
    when: str
    name: str = ""
    nth: int = 1


def start(recipe: Mapping[str, Any], output: str, death: Death | None = None, **more: str) -> ForkServerProcess:
    """Start a merge in a new process, with this one's environment and ``more`` variables."""
    sizes = (layout.MAX_RANGE, ledger.SEGMENT)
    return fork(_merge, {**os.environ, **more}, dict(recipe), output, sizes, death)


def _merge(
    environment: dict[str, str], recipe: dict[str, Any], output: str, sizes: tuple[int, int], death: Death | None
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    layout.MAX_RANGE, ledger.SEGMENT = sizes
    if death is not None:
        _arrange(death)
    svc_dist.merge(recipe, output, executor="inline", slots=2)


def _arrange(death: Death) -> None:
    real = getattr(S3Storage, death.method)
    calls = 0

    def dying(self: Any, name: str, *arguments: Any) -> Any:
        nonlocal calls
        if death.name not in self.key(name):
            return real(self, name, *arguments)
        calls += 1
        if calls == death.nth and death.when == "before":
            os._exit(DIED)
        result = real(self, name, *arguments)
        if calls >= death.nth:
            os._exit(DIED)
        return result

    setattr(S3Storage, death.method, dying)
