"""Which GPUs a Ray cluster has, and whether torch can use them: asked before a merge is planned.

The executor, the only module that connects to Ray, passes it in.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from svc_dist.run.devices import cuda
from svc_dist.run.executors.ray_nodes import first_line, last_line, on_node
from svc_dist.sizes import counted

_log = logging.getLogger("svc_dist")
_WAIT = 120.0  # seconds for the answers of all nodes: importing torch takes some


@dataclass
class ClusterGpus:
    """The GPUs of a cluster: how many by ``kind`` (of GPU, build of torch), and why others cannot be used."""

    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    unusable: dict[str, int] = field(default_factory=dict)

    def most(self) -> tuple[str, str]:
        """The kind that there is most of."""
        return max(self.kinds, key=lambda kind: (self.kinds[kind], kind))


def cluster_gpus(ray: Any) -> ClusterGpus:
    """Ask one GPU of each node for its kind."""
    found = ClusterGpus()
    ask = ray.remote(max_retries=0, max_calls=1, num_cpus=0, num_gpus=0.01)(describe_gpu)
    asked = {
        ask.options(scheduling_strategy=on_node(ray, node, soft=False)).remote(): count
        for node, count in gpus_of_nodes(ray).items()
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_WAIT) if asked else ([], [])
    for ref in answered:
        try:
            found.kinds[ray.get(ref)] += asked[ref]
        except ray.exceptions.RayError as error:
            within = isinstance(error, ray.exceptions.RayTaskError)  # a traceback, whose end says what
            reason = last_line(error) if within else first_line(error)
            found.unusable[reason] = found.unusable.get(reason, 0) + asked[ref]
    if silent:
        reason = f"no answer within {_WAIT:.0f} s: other work may occupy them"
        found.unusable[reason] = sum(asked[ref] for ref in silent)
    return found


def gpus_of_nodes(ray: Any) -> dict[str, int]:
    """How many GPUs each node has, as far as it has any."""
    alive = {entry["NodeID"]: int(entry["Resources"].get("GPU", 0)) for entry in ray.nodes() if entry["Alive"]}
    return {node: count for node, count in alive.items() if count}


def warn_of_unused(ray: Any) -> None:
    """Warn where a merge on cores runs on a cluster that has GPUs."""
    gpus = gpus_of_nodes(ray)
    if gpus:
        _log.warning(
            f"warning: the cluster has {counted(sum(gpus.values()), 'GPU')} on {counted(len(gpus), 'node')}, which "
            "this merge does not use, because its device is cpu: a new merge with --device cuda uses them"
        )


def describe_gpu() -> tuple[str, str]:
    """The kind of GPU and the build of torch of a node. Raises RecipeError where torch can use none."""
    import svc_dist.run.unit  # noqa: F401  # fails where units would

    cuda.memory_of_each()
    return cuda.gpu_name(), cuda.torch_build()
