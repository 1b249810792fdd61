"""A cluster decides about the device that is left open, and a run says what it found there."""

from __future__ import annotations

import logging
from collections import Counter
from typing import ClassVar

import pytest

from svc_dist.errors import RecipeError
from svc_dist.plan.settings import Settings, SettingsRequest
from svc_dist.run.devices import chosen
from svc_dist.run.devices.chosen import on_cluster, settings_of
from svc_dist.run.executors import ray as ray_executor
from svc_dist.run.executors.ray_cluster import ClusterGpus
from svc_dist.run.options import Options

H100, A100 = ("H100", "2.13.0+cu130"), ("A100", "2.13.0+cu130")


class Connection:
    """What a run does with a connection to a cluster."""

    made: ClassVar[list[Connection]] = []

    def __init__(self, found: ClusterGpus) -> None:
        self._found = found
        self.done: list[str] = []
        Connection.made.append(self)

    def processes(self, most: int) -> Connection:
        self.done.append("start")
        return self

    def kinds(self, seconds: float) -> ClusterGpus:
        self.done.append("ask")
        return self._found

    def close(self) -> None:
        self.done.append("close")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> ClusterGpus:
    """What the cluster has. Nothing else may be asked."""
    found = ClusterGpus()
    monkeypatch.setattr(ray_executor, "connect", lambda address: Connection(found))
    monkeypatch.setattr(chosen, "settings_here", lambda *_: pytest.fail("this machine does not decide"))
    caplog.set_level(logging.INFO, "svc_dist")
    return found


def settings(recorded: Settings | None = None, **request: object) -> Settings:
    return settings_of(Options(address="head:6379", settings=SettingsRequest(**request)), recorded)  # type: ignore[arg-type]


def test_a_cluster_with_gpus_is_used_without_an_option(cluster: ClusterGpus, caplog: pytest.LogCaptureFixture) -> None:
    cluster.kinds = Counter({H100: 8})
    assert settings() == Settings("mixed", 1, "cuda", *H100)
    assert caplog.messages == ["the cluster has 8 GPUs (H100, torch 2.13.0+cu130): device cuda"]


def test_a_cluster_without_gpus(cluster: ClusterGpus, caplog: pytest.LogCaptureFixture) -> None:
    assert settings() == Settings()
    assert caplog.messages == ["the cluster has no GPU that can be used: device cpu"]
    assert settings(device="cuda") == Settings(device="cuda")


def test_gpus_of_two_kinds(cluster: ClusterGpus, caplog: pytest.LogCaptureFixture) -> None:
    cluster.kinds = Counter({H100: 8, A100: 16})
    assert settings() == Settings("mixed", 1, "cuda", *A100)
    assert "only A100 with torch 2.13.0+cu130 get units" in caplog.messages[-1]
    caplog.clear()
    assert settings(mixed_gpus=True) == Settings("mixed", 1, "cuda")
    assert len(caplog.messages) == 1


def test_gpus_that_cannot_be_used(cluster: ClusterGpus, caplog: pytest.LogCaptureFixture) -> None:
    cluster.unusable = {"torch 2.13.0 is built for the CPU only": 8}
    assert settings() == Settings()
    assert caplog.messages[0].startswith("warning: the cluster has GPUs that cannot be used: 8 GPUs: torch 2.13.0 is")
    with pytest.raises(RecipeError, match="the cluster's GPUs cannot be used: 8 GPUs: torch") as refused:
        settings(device="cuda")
    assert refused.value.code == "cuda-unusable"


def done() -> list[str]:
    """What was done with the one connection that was made since."""
    (connection,) = Connection.made
    Connection.made.clear()
    return connection.done


def test_gpus_get_ready_while_a_merge_is_planned(cluster: ClusterGpus) -> None:
    Connection.made.clear()
    cluster.kinds = Counter({H100: 8})
    with on_cluster(Options(address="head:6379")) as options:
        assert settings_of(options, None).device == "cuda"
        assert Connection.made[0].done == ["start", "ask"], "and they stay"
        assert settings_of(options, Settings("mixed", 1, "cuda", *H100)).device == "cuda"
        assert Connection.made[0].done == ["start", "ask", "start"]
    assert done()[-1] == "close"
    with on_cluster(Options(address="head:6379")) as options:
        cluster.kinds.clear()
        assert settings_of(options, None).device == "cpu"
    assert done() == ["start", "ask", "close"]


def test_a_resume_keeps_its_device_and_asks_nothing(cluster: ClusterGpus) -> None:
    Connection.made.clear()
    begun = Settings("mixed", 1, "cuda", *H100)
    assert settings(begun) == begun
    assert done() == ["start", "close"]
    assert settings(Settings()) == Settings()
    assert done() == ["close"]
    assert settings(device="cpu") == Settings()
    assert done() == ["close"]


def test_nothing_is_joined_without_an_address() -> None:
    with on_cluster(Options()) as options:
        assert options.connection is None
