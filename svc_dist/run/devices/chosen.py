"""The settings of a run on this machine or on a cluster, which is asked for its GPUs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from svc_dist.errors import RecipeError
from svc_dist.plan.settings import Device, Settings
from svc_dist.run.executors.ray_cluster import ClusterGpus
from svc_dist.run.host import settings_here
from svc_dist.run.options import ExecutorKind, Options
from svc_dist.sizes import counted

if TYPE_CHECKING:
    from svc_dist.run.executors.ray_connection import RayConnection

_WAIT = 120.0  # seconds for an answer of every node: importing torch takes some
_log = logging.getLogger("svc_dist")


@dataclass
class _Shared:
    """The connection of this process, and how many use it."""

    users: int = 0
    connection: RayConnection | None = None


_shared = _Shared()


@contextmanager
def on_cluster(options: Options) -> Iterator[Options]:
    """The options of a run with a connection to the cluster at their address, if any, until the ``with`` ends.

    Raises RecipeError, StorageError.
    """
    if options.connection is not None or not _joins(options):
        yield options
        return
    from svc_dist.run.executors.ray import connect

    with shared_connection():
        if _shared.connection is None:
            _shared.connection = connect(options.address)
        yield replace(options, connection=_shared.connection)


@contextmanager
def shared_connection() -> Iterator[None]:
    """Have the runs within, which are all on one cluster, share the connection of the first that joins it."""
    if _shared.users == 0:
        _shared.connection = None
    _shared.users += 1
    try:
        yield
    finally:
        _shared.users -= 1
        if _shared.users == 0 and _shared.connection is not None:
            _shared.connection.close()
            _shared.connection = None


def settings_of(options: Options, recorded: Settings | None) -> Settings:
    """Complete settings for a run. ``recorded``: those of the run in the output.

    A cluster decides about the device that is left open, and names its kind of GPU. Its GPUs get ready from here on.
    Raises RecipeError when the run needs a GPU and none can be used, and StorageError where no cluster answers.
    """
    request = options.settings
    if not _joins(options):
        return settings_here(request, recorded)
    with on_cluster(options) as joined:
        assert joined.connection is not None
        if recorded is not None or request.device == Device.CPU:
            settings = request.resolve(recorded, lambda: Device.CPU)
            if settings.device != Device.CPU:
                joined.connection.processes(options.slots or sys.maxsize)
            return settings
        found = joined.connection.processes(options.slots or sys.maxsize).kinds(_WAIT)
        settings = request.resolve(None, lambda: Device.CUDA if found.kinds else Device.CPU, lambda: _kind(found))
    _report(found, settings, asked=request.device == Device.CUDA)
    return settings


def _joins(options: Options) -> bool:
    return options.address is not None and options.executor in (ExecutorKind.AUTO, ExecutorKind.RAY)


def _kind(found: ClusterGpus) -> tuple[str, str]:
    return found.most() if found.kinds else ("", "")


def _report(found: ClusterGpus, settings: Settings, asked: bool) -> None:
    """Say what a cluster has, and what of it a run uses. Raises RecipeError where a GPU is asked for and none works."""
    reasons = "; ".join(f"{counted(number, 'GPU')}: {reason}" for reason, number in found.unusable.items())
    if asked and reasons and not found.kinds:
        raise RecipeError(
            f"device is cuda, but the cluster's GPUs cannot be used: {reasons}",
            "repair the workers, or set --device cpu",
            code="cuda-unusable",
        )
    if reasons:
        _log.warning(f"warning: the cluster has GPUs that cannot be used: {reasons}")
    if not found.kinds:
        _log.info(f"the cluster has no GPU that can be used{' yet' if asked else ''}: device {settings.device}")
        return
    has = ", ".join(
        f"{counted(number, 'GPU')} ({gpu}, torch {build})" for (gpu, build), number in sorted(found.kinds.items())
    )
    _log.info(f"the cluster has {has}: device {settings.device}")
    if settings.gpu and len(found.kinds) > 1:
        _log.warning(
            f"warning: the cluster has {has}: only {settings.gpu} with torch {settings.build} get units, because the "
            "last bits of results depend on them; --mixed-gpus uses all"
        )
