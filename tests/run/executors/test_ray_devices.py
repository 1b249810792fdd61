"""The processes of a cluster's GPUs, on a stand-in for Ray: when they are started, ended and left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from svc_dist.errors import UnitsFailedError
from svc_dist.plan.settings import Settings
from svc_dist.run.executors.ray_device import DeviceFound
from svc_dist.run.executors.ray_devices import RayDevices
from svc_dist.run.executors.ray_nodes import PROBES, own_versions
from svc_dist.run.placement import Node

SETTINGS = Settings(device="cuda")
H100 = ("H100", "2.13.0+cu130")


class RayError(Exception): ...


class RayTaskError(RayError): ...


class Cluster:
    """What ``ray`` is to RayDevices: nodes, and processes that answer with what ``answer`` makes of (node, number)."""

    def __init__(self, **gpus: int) -> None:
        self.gpus = gpus
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.util = SimpleNamespace(
            scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node_id, soft: node_id)
        )
        self.answer: Callable[[str, int], DeviceFound | Exception] = lambda node, number: found(number)
        self.started: list[SimpleNamespace] = []
        self.killed: list[SimpleNamespace] = []
        self.silent: set[str] = set()  # nodes that never answer

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": name, "Alive": True, "NodeManagerHostname": name, "NodeManagerAddress": "10.0.0.1",
                "Resources": {"GPU": float(count), "CPU": 2.0 * count, "memory": 100.0 * count},
            }
            for name, count in self.gpus.items()
        ]  # fmt: skip

    def remote(self, **_: Any) -> Any:
        def options(scheduling_strategy: str) -> Any:
            return SimpleNamespace(remote=lambda of: self._begin(scheduling_strategy, of))

        return lambda cls: SimpleNamespace(options=options)

    def _begin(self, node: str, of: int) -> SimpleNamespace:
        taken = {one.number for one in self.started if one.node == node and one not in self.killed}
        number = next(number for number in range(99) if number not in taken)
        process = SimpleNamespace(node=node, number=number, of=of)
        process.found = SimpleNamespace(options=lambda name: SimpleNamespace(remote=lambda: (node, number, object())))
        self.started.append(process)
        return process

    def wait(
        self, refs: list[tuple[str, int, object]], num_returns: int, timeout: float
    ) -> tuple[list[tuple[str, int, object]], list[tuple[str, int, object]]]:
        """The first answer that there is."""
        ready = [ref for ref in refs if ref[0] not in self.silent][:num_returns]
        if not ready:
            time.sleep(timeout)
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: tuple[str, int, object]) -> DeviceFound:
        answer = self.answer(ref[0], ref[1])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, process: SimpleNamespace) -> None:
        self.killed.append(process)


def found(number: int, **other: Any) -> DeviceFound:
    return DeviceFound(own_versions(), str(number), "H100", "2.13.0+cu130", 70, 1e11, 7)._replace(**other)


def answered(cluster: Cluster, most: int = 64) -> RayDevices:
    """The devices, once all processes have answered."""
    devices = began(cluster, most=most)
    devices.refresh(list(devices.probes))
    return devices


def began(cluster: Cluster, settings: Settings = SETTINGS, most: int = 64) -> RayDevices:
    """The devices of a run, none of whose processes has answered."""
    devices = RayDevices(cluster, most)
    devices.use(settings, most)
    return devices


def gpus(available: Mapping[str, Node]) -> list[str]:
    """The keys of devices; the others are those of cores beside them."""
    return [key for key, node in available.items() if node.device_memory is not None]


def test_every_gpu_is_a_place_of_its_own_with_two_slots() -> None:
    cluster = Cluster(a=2, b=1, c=0)
    devices = answered(cluster)
    assert [(process.node, process.of) for process in cluster.started] == [("a", 2), ("a", 2), ("b", 1)]
    assert list(devices.available) == ["a/0", "a/1", "b/0", "a/cores", "b/cores"]
    one = devices.available["a/1"]
    assert (one.slots, one.ahead, one.memory, one.device_memory, one.speed) == (2, 4, 50, 70, 1e11)
    assert one.name == "GPU 1 of a (10.0.0.1)"
    cores = devices.available["a/cores"]
    assert (cores.slots, cores.ahead, cores.memory, cores.device_memory) == (2, 0, 100, None)
    assert cores.name == "cores of a (10.0.0.1)"


def test_no_more_processes_are_started_than_units_run() -> None:
    cluster = Cluster(a=8)
    assert len(gpus(answered(cluster, most=3).available)) == len(cluster.started) == 3


def test_a_process_that_ended_is_replaced() -> None:
    cluster = Cluster(a=2)
    devices = answered(cluster)
    lost = devices.device("a/0")
    assert lost is not None
    devices.end(lost, "its process ended")
    assert gpus(devices.available) == ["a/1"]
    assert devices.device("a/0") is None
    devices.refresh()
    devices.refresh(list(devices.probes))
    assert sorted(gpus(devices.available)) == ["a/0", "a/1"]


def test_a_device_that_failed_is_named_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(a=2)
    devices = answered(cluster)
    sick = devices.device("a/0")
    assert sick is not None
    devices.end(sick, "CUDA error: uncorrectable ECC error", failed=True)
    assert caplog.messages == ["GPU 0 of a (10.0.0.1) gets no more units: CUDA error: uncorrectable ECC error"]
    devices.refresh()
    assert not devices.probes, "it would be started on the same device"
    assert gpus(devices.available) == ["a/1"]


def test_the_only_device_is_tried_again() -> None:
    devices = answered(Cluster(a=1))
    sick = devices.device("a/0")
    assert sick is not None
    devices.end(sick, "CUDA error: unspecified launch failure", failed=True)
    devices.refresh()
    devices.refresh(list(devices.probes))
    assert gpus(devices.available) == ["a/0"]


def test_a_node_that_leaves_takes_its_devices_along() -> None:
    cluster = Cluster(a=1, b=1)
    devices = answered(cluster)
    del cluster.gpus["a"]
    assert devices.refresh()
    assert gpus(devices.available) == ["b/0"]


def test_gpus_that_cannot_be_used_end_the_run_with_the_reason() -> None:
    cluster = Cluster(a=1)
    cluster.answer = lambda node, number: RayTaskError("Traceback\nRecipeError: torch 2.13.0 is built for the CPU only")
    devices = began(cluster)
    with pytest.raises(UnitsFailedError, match="no GPU of the cluster can be used: RecipeError: torch 2"):
        devices.refresh(list(devices.probes))


def test_a_node_whose_processes_cannot_be_used_leaves_the_work_to_others(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(a=1, b=1)
    cluster.answer = lambda node, number: found(number, versions={"torch": "1"}) if node == "a" else found(number)
    assert gpus(answered(cluster).available) == ["b/0"]
    (said,) = caplog.messages
    assert said.startswith("node a gets no units: it has {'torch': '1'}")


def test_a_process_that_ends_before_it_answers_is_started_a_few_times() -> None:
    cluster = Cluster(a=1)
    cluster.answer = lambda node, number: RayError("the actor died")
    devices = began(cluster)
    for _ in range(PROBES - 1):
        devices.refresh(list(devices.probes))
    with pytest.raises(UnitsFailedError, match="the actor died"):
        devices.refresh(list(devices.probes))
    assert len(cluster.started) == PROBES


def test_cores_for_what_does_not_fit_onto_a_gpu() -> None:
    devices = answered(Cluster(a=2))
    assert devices.host_for(2, 200) == "a"
    assert devices.host_for(3, 200) is None, "two of the four cores are those of the processes"
    assert devices.host_for(2, 201) is None


def test_all_devices_are_given_back_at_the_end() -> None:
    cluster = Cluster(a=2)
    answered(cluster).close()
    assert cluster.killed == cluster.started


def test_only_the_kind_of_gpu_that_the_run_began_with_gets_units(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(a=1, b=1)
    cluster.answer = lambda node, number: found(number, gpu="A100" if node == "a" else "H100")
    devices = began(cluster, Settings("mixed", 1, "cuda", *H100))
    devices.refresh(list(devices.probes))
    assert gpus(devices.available) == ["b/0"]
    assert "GPU 0 of node a gets no units: it is A100 with torch 2.13.0+cu130" in caplog.text
    devices.refresh()
    assert not devices.probes, "it would be started again and again"
    assert len(gpus(answered(cluster).available)) == 2, "where kinds may be mixed, all do"


def test_a_cluster_of_another_kind_alone_ends_the_run() -> None:
    cluster = Cluster(a=2)
    devices = began(cluster, Settings("mixed", 1, "cuda", "A100", "2.13.0"))
    with pytest.raises(UnitsFailedError, match=r"no GPU of the cluster can be used: H100 with torch 2\.13\.0\+cu130"):
        devices.refresh(list(devices.probes))


def test_processes_get_ready_before_there_is_a_run_and_say_what_they_are_on() -> None:
    cluster = Cluster(a=8, b=4, c=2, d=1, cores=0)
    failed = RayTaskError("Traceback\nRecipeError: torch can use no GPU here: torch 2.13.0 is built for the CPU only")
    cluster.answer = lambda node, number: failed if node == "c" else found(number)
    cluster.silent = {"d"}
    devices = RayDevices(cluster, 64)
    kinds = devices.kinds(1.0)
    assert kinds.kinds == {H100: 12}
    assert kinds.most() == H100
    assert kinds.unusable == {
        "RecipeError: torch can use no GPU here: torch 2.13.0 is built for the CPU only": 2,
        "no answer within 1 s: other work may occupy them": 1,
    }
    assert not devices.available, "there is no run yet"
    started = len(cluster.started)
    devices.use(SETTINGS, 64)
    devices.refresh([ref for ref in devices.probes if ref[0] != "d"])
    assert len(gpus(devices.available)) == 12
    assert len(cluster.started) == started, "they are those that the run gets"


def test_nothing_is_asked_where_there_is_no_gpu() -> None:
    cluster = Cluster(cores=0)
    kinds = RayDevices(cluster, 64).kinds(60)
    assert not kinds.kinds
    assert not kinds.unusable
    assert not cluster.started


def test_a_run_of_few_units_gives_the_other_devices_back() -> None:
    cluster = Cluster(a=8)
    devices = RayDevices(cluster, 64)
    devices.kinds(60)
    ready = next(one for one in cluster.started if one.number == 0)
    devices.use(SETTINGS, 1)
    assert gpus(devices.available) == ["a/0"]
    assert ready not in cluster.killed
    assert len(cluster.killed) == 7
    devices.use(SETTINGS, 2)
    devices.refresh(list(devices.probes))
    assert len(gpus(devices.available)) == 2, "the next run has more"


def test_a_run_that_began_on_another_kind_ends_the_processes_of_this_one() -> None:
    cluster = Cluster(a=1, b=1)
    cluster.answer = lambda node, number: found(number, gpu="A100" if node == "a" else "H100")
    devices = RayDevices(cluster, 64)
    devices.kinds(60)
    devices.refresh(list(devices.probes))
    devices.use(Settings("mixed", 1, "cuda", *H100), 64)
    assert gpus(devices.available) == ["b/0"]
    assert [one.node for one in cluster.killed] == ["a"]
