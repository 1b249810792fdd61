"""A Ray cluster and its nodes: how it is started or joined, and what Ray says of them.

The executor, the only module that imports Ray, passes it in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from svc_dist import __version__
from svc_dist.errors import StorageError
from svc_dist.run.executors.ray_folder import temporary_folder

_log = logging.getLogger("svc_dist")
_OBJECT_STORE = 100 * 2**20  # receipts are all that travels
_STARTS = 3
_START_WAIT = {"RAY_gcs_server_port_wait_time_s": "60"}  # the default, 30, is too short on a busy machine
REFRESH = 2.0  #: seconds between queries of the cluster's nodes
PROBES = 3  #: attempts to start a process on a node


def own_versions() -> dict[str, str]:
    """The versions that must be the same everywhere, or results would differ. On a node this fails without svc_dist."""
    return {"svc_dist": __version__, "torch": version("torch").split("+")[0]}


def draining(ray: Any) -> Collection[str]:
    """The nodes that are to end soon (``ray drain-node``, as after a spot notice): they finish what they run."""
    state = getattr(getattr(ray, "_private", None), "state", None)  # Ray has no public name for it
    ask = getattr(getattr(state, "state", None), "get_draining_nodes", None)
    return () if ask is None else tuple(ask())


def idle_resources(ray: Any) -> dict[str, dict[str, float]]:
    """What no work has booked on each node, as far as Ray knows at the moment; empty where it does not say."""
    state = getattr(getattr(ray, "_private", None), "state", None)  # Ray has no public name for it
    ask = getattr(state, "available_resources_per_node", None)
    return {} if ask is None else {node: dict(resources) for node, resources in ask().items()}


def on_node(ray: Any, node: str, soft: bool) -> Any:
    """Ray's strategy that runs a task on a node; ``soft``: elsewhere when that node is gone."""
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=soft)


def first_line(error: BaseException) -> str:
    """The first line of Ray's error message; the rest is advice on Ray."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def last_line(error: BaseException) -> str:
    """The last line of a traceback, which says what happened."""
    return next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)


def join(ray: Any, options: dict[str, Any], address: str) -> None:
    """Connect to a cluster. Raises RecipeError, StorageError."""
    try:
        ray.init(**options, address=address)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise StorageError(
            f"cannot reach the Ray cluster at {address}: {error}",
            "check --address, `ray status` there, and that this machine has the cluster's token (RAY_AUTH_TOKEN)",
        ) from None


def start_here(ray: Any, options: dict[str, Any]) -> None:
    """Start a one-node cluster, with retries: on a busy machine Ray's processes may miss its deadlines."""
    options = options | temporary_folder()
    for start in range(1, _STARTS + 1):
        try:
            with environment(_START_WAIT):  # not for a cluster that is joined later
                ray.init(**options, address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE)
            return
        except Exception as error:  # the type that a late raylet raises
            ray.shutdown()
            end_children(Path(ray.__file__).parent)
            reason = f"starting Ray on this machine failed: {error}"
            if start == _STARTS:
                hint = "start again when the machine is less busy, or with --executor inline"
                raise StorageError(reason, hint) from None
            _log.warning(f"{reason}; trying again ({start} of {_STARTS - 1})")


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Preserve this process's handler of SIGTERM: Ray's ends the process with exit code 15."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def stop_here(ray: Any) -> None:
    """Stop the cluster of ``start_here``. Its autoscaler ignores SIGTERM, so Ray would wait a second."""
    end_children(Path(ray.__file__).parent / "autoscaler")
    ray.shutdown()


@contextlib.contextmanager
def environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set yet; afterwards unset them again."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def end_children(programs: Path) -> None:
    """Kill this process's children whose program or script lies under ``programs`` (Linux; elsewhere nothing)."""
    children = [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]
    for child in children:
        with contextlib.suppress(OSError):  # it has ended since
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            files = [Path(f"/proc/{child}/exe").readlink(), *(Path(os.fsdecode(word)) for word in words)]
            if any(programs in file.parents or programs.resolve() in file.parents for file in files):
                os.kill(int(child), signal.SIGKILL)
