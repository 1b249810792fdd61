"""The connection to a cluster, on a stand-in for Ray: who closes it, and what its processes outlive."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from svc_dist.run.executors import ray_connection
from svc_dist.run.executors.ray_connection import RayConnection
from tests.run.executors.test_ray_processes import Cluster


class Ray(Cluster):
    def __init__(self, initialised: bool = False, **gpus: int) -> None:
        super().__init__(**gpus)
        self.initialised, self.left = initialised, 0

    def is_initialized(self) -> bool:
        return self.initialised

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address="127.0.0.1:1")

    def shutdown(self) -> None:
        self.left += 1


@pytest.fixture(autouse=True)
def joined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were joined."""
    addresses: list[str] = []
    monkeypatch.setattr(ray_connection, "join", lambda ray, options, address: addresses.append(address))
    return addresses


def test_a_cluster_that_was_joined_is_left_and_its_gpus_are_given_back(joined: list[str]) -> None:
    ray = Ray(a=2)
    connection = RayConnection(ray, "head:6379")
    assert joined == ["head:6379"]
    assert connection.processes(64) is connection.processes(1), "all runs get the same processes"
    assert len(ray.started) == 2
    connection.close()
    assert ray.killed == ray.started
    assert ray.left == 1


def test_a_connection_of_the_callers_own_stays(joined: list[str]) -> None:
    ray = Ray(initialised=True, a=1)
    connection = RayConnection(ray, None)
    assert not connection.started
    connection.processes(64)
    connection.close()
    assert ray.killed == ray.started
    assert (joined, ray.left) == ([], 0)


def test_of_a_cluster_whose_head_is_lost_nothing_is_asked() -> None:
    ray = Ray(a=1)
    connection = RayConnection(ray, "head:6379")
    connection.processes(64)
    connection.head = SimpleNamespace(lost=True)  # type: ignore[assignment]
    connection.close()
    assert (ray.killed, ray.left) == ([], 0)
