"""What a run says of a cluster's GPUs, on a stand-in for Ray."""

from __future__ import annotations

import pytest

from svc_dist.run.executors.ray_cluster import ClusterGpus, warn_of_unused
from tests.run.executors.test_ray_processes import Cluster


def test_gpus_that_cannot_be_used_are_counted_by_reason() -> None:
    found = ClusterGpus()
    for count in (8, 2):
        found.add_unusable("torch is built for the CPU only", count)
    assert found.unusable == {"torch is built for the CPU only": 10}


def test_a_merge_on_cores_beside_gpus_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unused(Cluster(a=0))
    assert not caplog.messages
    warn_of_unused(Cluster(a=8, b=8, c=0))
    assert "the cluster has 16 GPUs on 2 nodes, which this merge does not use" in caplog.text
