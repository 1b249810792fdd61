"""The nodes of a Ray cluster: starting or joining a cluster, and the nodes that can run units.

The executor, the only module that imports Ray, passes it in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from svc_dist import __version__
from svc_dist.errors import StorageError
from svc_dist.plan.settings import Settings
from svc_dist.run.executors.ray_folder import temporary_folder
from svc_dist.run.placement import Node

_log = logging.getLogger("svc_dist")
_OBJECT_STORE = 100 * 2**20  # receipts are all that travels
_STARTS = 3
_START_WAIT = {"RAY_gcs_server_port_wait_time_s": "60"}  # the default, 30, is too short on a busy machine
REFRESH = 2.0  #: seconds between queries of the cluster's nodes
PROBES = 3  #: attempts to probe a node


class RayNodes:
    """The nodes whose cores take units: those that are alive and have answered a probe, as they come and go.

    ``available``: by Ray's id; ``probes``: references of pending answers; ``most``: units in parallel on all nodes.
    """

    def __init__(self, ray: Any, settings: Settings, most: int, started_here: bool = False) -> None:
        self._ray = ray
        self._settings = settings
        self._most = most
        self._known = started_here  # the cluster has this machine's code
        self._probe = ray.remote(max_retries=0, max_calls=0, num_cpus=0)(own_versions)
        self._warm_up = ray.remote(max_retries=0, max_calls=0)(warm_up)
        self.available: Mapping[str, Node] = {}
        self.probes: dict[Any, str] = {}
        self._asked: dict[str, int] = {}
        self._answered: set[str] = set()
        self._refreshed = float("-inf")
        self.refresh()

    def due(self, ready: Collection[Any]) -> bool:
        """Whether it is time to refresh, or a probe is among what is ``ready``."""
        return time.monotonic() - self._refreshed >= REFRESH or any(ref in self.probes for ref in ready)

    def refresh(self, ready: Collection[Any] = ()) -> bool:
        """Query the cluster, and read the probes among what is ``ready``. Returns whether the nodes changed."""
        self._refreshed = time.monotonic()
        for ref in [ref for ref in ready if ref in self.probes]:
            self._answer(self.probes.pop(ref), ref)
        alive = {entry["NodeID"]: entry for entry in self._ray.nodes() if entry["Alive"]}
        for node, entry in alive.items():
            slots = self._slots(entry["Resources"])
            if node not in self._asked and slots:
                if self._known:
                    self._asked[node] = 0
                    self._answered.add(node)
                else:
                    self._ask(node)
                self._get_ready(node, min(slots, self._most))
        before, leaving = self.available, draining(self._ray)
        self.available = {
            node: Node(
                slots=self._slots(entry["Resources"]),
                memory=int(entry["Resources"].get("memory", 0)),
                name=f"{entry['NodeManagerHostname']} ({entry['NodeManagerAddress']})",
            )
            for node, entry in alive.items()
            if node in self._answered and node not in leaving
        }
        return self.available != before

    def _ask(self, node: str) -> None:
        self._asked[node] = self._asked.get(node, 0) + 1
        task = self._probe.options(scheduling_strategy=on_node(self._ray, node, soft=False))
        self.probes[task.remote()] = node

    def _get_ready(self, node: str, slots: int) -> None:
        """Have workers import what units need while the node is probed.

        Each books the resources of a unit, so that units wait for these workers; a failure shows again in a unit.
        """
        task = self._warm_up.options(
            **booked(self._settings, 1), scheduling_strategy=on_node(self._ray, node, soft=False)
        )
        for _ in range(slots):
            task.remote()

    def _answer(self, node: str, ref: Any) -> None:
        try:
            versions = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            if self._asked[node] < PROBES:
                self._ask(node)
            else:
                within = isinstance(error, self._ray.exceptions.RayTaskError)  # a traceback, whose end says what
                reason = last_line(error) if within else first_line(error)
                _log.warning(f"node {node} gets no units: {reason}")
            return
        if versions == own_versions():
            self._answered.add(node)
        else:
            _log.warning(f"node {node} gets no units: it has {versions}, and this command {own_versions()}")

    def _slots(self, resources: dict[str, float]) -> int:
        return int(resources.get("CPU", 0)) // self._settings.threads_per_unit


def own_versions() -> dict[str, str]:
    """The versions that must be the same everywhere, or results would differ. On a node this fails without svc_dist."""
    return {"svc_dist": __version__, "torch": version("torch").split("+")[0]}


def warm_up() -> None:
    """Import what the first unit of a worker would wait for: importing torch takes seconds."""
    import svc_dist.run.unit  # noqa: F401


def booked(settings: Settings, slots: int) -> dict[str, float]:
    """The resources of a node that a task books which uses ``slots`` of its cores."""
    return {"num_cpus": settings.threads_per_unit * slots}


def draining(ray: Any) -> Collection[str]:
    """The nodes that are to end soon (``ray drain-node``, as after a spot notice): they finish what they run."""
    state = getattr(getattr(ray, "_private", None), "state", None)  # Ray has no public name for it
    ask = getattr(getattr(state, "state", None), "get_draining_nodes", None)
    return () if ask is None else tuple(ask())


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
