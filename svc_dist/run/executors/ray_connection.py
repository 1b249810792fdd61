"""The connection of this process to a Ray cluster, and the processes that get ready there while a merge is planned.

The executor, the only module that imports Ray, passes it in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from svc_dist.run.executors.ray_head import HeadWatch
from svc_dist.run.executors.ray_nodes import environment, join, own_sigterm, start_here, stop_here
from svc_dist.run.executors.ray_processes import RayProcesses

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # Ray prints them, as text, between our lines
}
_START: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning", "configure_logging": False}


class RayConnection:
    """A cluster that this process has joined, or started on this machine.

    ``started``: whether it did that, with so many ``cores``. ``head``: watches the cluster's head. A connection of the
    caller's own is used, and left as it is.
    """

    def __init__(self, ray: Any, address: str | None, cores: Callable[[], int] = lambda: 1) -> None:
        """Raises RecipeError, StorageError."""
        self.ray = ray
        with ExitStack() as restoring:
            restoring.enter_context(environment(_ENVIRONMENT))
            self._owned = not ray.is_initialized()
            self.started = self._owned and address is None
            if self._owned:
                with own_sigterm():
                    if address is None:
                        start_here(ray, _START | {"num_cpus": cores()})
                    else:
                        join(ray, _START, address)
            self._restoring = restoring.pop_all()
        self.head = HeadWatch(ray.get_runtime_context().gcs_address)
        self._processes: RayProcesses | None = None

    def processes(self, most: int, gpus: bool = True) -> RayProcesses:
        """The processes that run units, the same ones for all runs. Those of ``gpus`` get ready, ``most`` a node."""
        if self._processes is None:
            self._processes = RayProcesses(self.ray, self.started)
        if gpus:
            self._processes.start_gpus(most)
        return self._processes

    def close(self) -> None:
        """Give the processes back; stop the cluster that was started, or leave the one that was joined."""
        with self._restoring:
            if self.head.lost:  # Ray would wait for one
                return
            if self._processes is not None:
                self._processes.close()
            if self.started:
                stop_here(self.ray)
            elif self._owned:
                self.ray.shutdown()
