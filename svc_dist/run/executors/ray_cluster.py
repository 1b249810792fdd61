"""Which GPUs a Ray cluster has, and whether torch can use them: known before a merge is planned.

The executor, the only module that imports Ray, passes it in.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from svc_dist.sizes import counted

_log = logging.getLogger("svc_dist")


@dataclass
class ClusterGpus:
    """The GPUs of a cluster: how many by ``kind`` (of GPU, build of torch), and why others cannot be used."""

    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    unusable: dict[str, int] = field(default_factory=dict)

    def add_unusable(self, reason: str, count: int) -> None:
        self.unusable[reason] = self.unusable.get(reason, 0) + count

    def most(self) -> tuple[str, str]:
        """The kind that there is most of."""
        return max(self.kinds, key=lambda kind: (self.kinds[kind], kind))


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
