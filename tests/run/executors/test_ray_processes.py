"""The processes of a cluster, on a stand-in for Ray: when they are started, ended and left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from svc_dist.errors import UnitsFailedError
from svc_dist.plan.settings import Settings
from svc_dist.run.executors.ray_nodes import PROBES, own_versions
from svc_dist.run.executors.ray_process import Found
from svc_dist.run.executors.ray_processes import RayProcesses
from svc_dist.run.pipeline.shares import LANES
from svc_dist.run.placement import Node

SETTINGS = Settings(device="cuda")
H100 = ("H100", "2.13.0+cu130")


class RayError(Exception): ...


class RayTaskError(RayError): ...


class Cluster:
    """What ``ray`` is to RayProcesses: nodes, and processes that answer with what ``answer`` makes of (node, number).

    ``started``, ``killed``: processes of GPUs; ``on_cores``: all others, with what they booked. A node has two cores
    and 100 bytes for each of its ``gpus``, or else ``cores`` and ``memory``. ``idle``: what Ray says of idle cores.
    """

    def __init__(self, **gpus: int) -> None:
        self.gpus = gpus
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.util = SimpleNamespace(
            scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node_id, soft: node_id)
        )
        self.answer: Callable[[str, int], Found | Exception] = lambda node, number: found(number)
        self.started: list[SimpleNamespace] = []
        self.killed: list[SimpleNamespace] = []
        self.on_cores: list[SimpleNamespace] = []
        self.ended_on_cores: list[SimpleNamespace] = []
        self.drained: list[SimpleNamespace] = []
        self.silent: set[str] = set()  # nodes that never answer
        self.cores: dict[str, tuple[int, int]] = {}
        self.leaving: tuple[str, ...] = ()
        self.idle: dict[str, dict[str, float]] = {}
        ends = SimpleNamespace(get_draining_nodes=lambda: self.leaving)
        self._private = SimpleNamespace(
            state=SimpleNamespace(state=ends, available_resources_per_node=lambda: self.idle)
        )

    def nodes(self) -> list[dict[str, Any]]:
        def resources(name: str, count: int) -> dict[str, float]:
            cores, memory = self.cores.get(name, (2 * count, 100 * count))
            return {"GPU": float(count), "CPU": float(cores), "memory": float(memory)}

        return [
            {
                "NodeID": name, "Alive": True, "NodeManagerHostname": name, "NodeManagerAddress": "10.0.0.1",
                "Resources": resources(name, count),
            }
            for name, count in self.gpus.items()
        ]  # fmt: skip

    def remote(self, **_: Any) -> Any:
        def options(**booked: Any) -> Any:
            return SimpleNamespace(remote=lambda *given: self._begin(booked, *given))

        return lambda cls: SimpleNamespace(options=options)

    def _begin(self, booked: dict[str, Any], of: int, lanes: int, on_device: bool) -> SimpleNamespace:
        node, begun = booked["scheduling_strategy"], self.started if on_device else self.on_cores
        taken = {one.number for one in begun if one.node == node and one not in [*self.killed, *self.ended_on_cores]}
        number = next(number for number in range(99) if number not in taken)
        process = SimpleNamespace(node=node, number=number, of=of, lanes=lanes, booked=booked)
        answer = (node, number, object()) if on_device else (node, -1, object())
        process.found = SimpleNamespace(options=lambda name: SimpleNamespace(remote=lambda: answer))
        process.drain = SimpleNamespace(remote=lambda: self.drained.append(process))
        begun.append(process)
        return process

    def wait(
        self, refs: list[tuple[str, int, object]], num_returns: int, timeout: float
    ) -> tuple[list[tuple[str, int, object]], list[tuple[str, int, object]]]:
        """The first answer that there is."""
        ready = [ref for ref in refs if ref[0] not in self.silent][:num_returns]
        if not ready:
            time.sleep(timeout)
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: tuple[str, int, object]) -> Found:
        answer = self.answer(ref[0], ref[1]) if ref[1] >= 0 else Found(own_versions())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, process: SimpleNamespace) -> None:
        (self.killed if process in self.started else self.ended_on_cores).append(process)


def found(number: int, **other: Any) -> Found:
    return Found(own_versions(), str(number), "H100", "2.13.0+cu130", 70, 1e11)._replace(**other)


def answered(cluster: Cluster, most: int = 64) -> RayProcesses:
    """The devices, once all processes have answered."""
    devices = began(cluster, most=most)
    devices.refresh(list(devices.probes))
    return devices


def starting(cluster: Cluster, most: int = 64) -> RayProcesses:
    """Processes on GPUs that get ready for a run."""
    processes = RayProcesses(cluster)
    processes.start_gpus(most)
    return processes


def began(cluster: Cluster, settings: Settings = SETTINGS, most: int = 64) -> RayProcesses:
    """The devices of a run, none of whose processes has answered."""
    devices = starting(cluster, most)
    devices.use(settings, most, 10)
    return devices


def gpus(available: Mapping[str, Node]) -> list[str]:
    """The keys of devices; the others are those of cores beside them."""
    return [key for key, node in available.items() if node.device_memory is not None]


def test_every_gpu_is_a_place_of_its_own_with_two_slots() -> None:
    cluster = Cluster(a=2, b=1, c=0)
    devices = answered(cluster)
    assert [(process.node, process.of) for process in cluster.started] == [("a", 2), ("a", 2), ("b", 1)]
    assert list(devices.available) == ["a/0", "a/1", "b/0", "a/cores/0", "b/cores/0"]
    one = devices.available["a/1"]
    assert (one.slots, one.ahead, one.memory, one.device_memory, one.speed) == (2, 4, 50, 70, 1e11)
    assert one.name == "GPU 1 of a (10.0.0.1)"
    cores = devices.available["a/cores/0"]
    assert (cores.slots, cores.ahead, cores.memory, cores.device_memory) == (2, 4, 100, None)
    assert cores.name == "cores of a (10.0.0.1)"


def test_no_more_processes_are_started_than_units_run() -> None:
    cluster = Cluster(a=8)
    assert len(gpus(answered(cluster, most=3).available)) == len(cluster.started) == 3


def test_a_process_that_ended_is_replaced() -> None:
    cluster = Cluster(a=2)
    devices = answered(cluster)
    lost = devices.process("a/0")
    assert lost is not None
    devices.end(lost, "its process ended")
    assert gpus(devices.available) == ["a/1"]
    assert devices.process("a/0") is None
    devices.refresh()
    devices.refresh(list(devices.probes))
    assert sorted(gpus(devices.available)) == ["a/0", "a/1"]


def test_a_device_that_failed_is_named_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(a=2)
    devices = answered(cluster)
    sick = devices.process("a/0")
    assert sick is not None
    devices.end(sick, "CUDA error: uncorrectable ECC error", failed=True)
    assert caplog.messages == ["GPU 0 of a (10.0.0.1) gets no more units: CUDA error: uncorrectable ECC error"]
    devices.refresh()
    assert len(cluster.started) == 2, "it would be started on the same device"
    assert gpus(devices.available) == ["a/1"]


def test_a_process_that_is_replaced_beside_a_failed_device_gets_its_own_back() -> None:
    """The first replacement comes to the device that failed, as the lowest that is free, and stays without units."""
    cluster = Cluster(a=2)
    devices = answered(cluster)
    sick, killed = devices.process("a/0"), devices.process("a/1")
    assert sick is not None
    assert killed is not None
    devices.end(sick, "CUDA error: uncorrectable ECC error", failed=True)
    devices.refresh()
    devices.end(killed, "its process ended")
    devices.refresh()
    devices.refresh(list(devices.probes))
    assert gpus(devices.available) == []
    devices.refresh(list(devices.probes))
    assert gpus(devices.available) == ["a/1"]
    assert len(cluster.started) == 4
    devices.refresh()
    assert len(cluster.started) == 4


def test_the_only_device_is_tried_again() -> None:
    devices = answered(Cluster(a=1))
    sick = devices.process("a/0")
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


def test_a_node_without_this_package_is_told_by_the_end_of_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(a=1, b=1)
    died = "The actor died because of an error raised in its creation task, ray::X\nFile ...\nModuleNotFoundError: x"
    cluster.answer = lambda node, number: RayError(died) if node == "a" else found(number)
    assert gpus(answered(cluster).available) == ["b/0"]
    assert caplog.messages == ["node a gets no units: ModuleNotFoundError: x"]


def test_all_devices_are_given_back_at_the_end() -> None:
    cluster = Cluster(a=2)
    answered(cluster).close()
    assert cluster.killed == cluster.started
    assert cluster.ended_on_cores == cluster.on_cores


def test_only_the_kind_of_gpu_that_the_run_began_with_gets_units(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(a=1, b=1)
    cluster.answer = lambda node, number: found(number, gpu="A100" if node == "a" else "H100")
    devices = began(cluster, Settings("mixed", 1, "cuda", *H100))
    devices.refresh(list(devices.probes))
    assert gpus(devices.available) == ["b/0"]
    assert "GPU 0 of node a gets no units: it is A100 with torch 2.13.0+cu130" in caplog.text
    devices.refresh()
    assert len(cluster.started) == 2, "it would be started again and again"
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
    devices = starting(cluster)
    kinds = devices.kinds(1.0)
    assert kinds.kinds == {H100: 12}
    assert kinds.most() == H100
    assert kinds.unusable == {
        "RecipeError: torch can use no GPU here: torch 2.13.0 is built for the CPU only": 2,
        "no answer within 1 s: other work may occupy them": 1,
    }
    assert not devices.available, "there is no run yet"
    started = len(cluster.started)
    devices.use(SETTINGS, 64, 10)
    devices.refresh([ref for ref in devices.probes if ref[0] != "d"])
    assert len(gpus(devices.available)) == 12
    assert len(cluster.started) == started, "they are those that the run gets"


def test_nothing_is_asked_where_there_is_no_gpu() -> None:
    cluster = Cluster(cores=0)
    kinds = starting(cluster).kinds(60)
    assert not kinds.kinds
    assert not kinds.unusable
    assert not cluster.started


def test_a_run_of_few_units_gives_the_other_devices_back() -> None:
    cluster = Cluster(a=8)
    devices = starting(cluster)
    devices.kinds(60)
    ready = next(one for one in cluster.started if one.number == 0)
    devices.use(SETTINGS, 1, 10)
    assert gpus(devices.available) == ["a/0"]
    assert ready not in cluster.killed
    assert len(cluster.killed) == 7
    devices.use(SETTINGS, 2, 10)
    devices.refresh(list(devices.probes))
    assert len(gpus(devices.available)) == 2, "the next run has more"


def test_a_run_that_began_on_another_kind_ends_the_processes_of_this_one() -> None:
    cluster = Cluster(a=1, b=1)
    cluster.answer = lambda node, number: found(number, gpu="A100" if node == "a" else "H100")
    devices = starting(cluster)
    devices.kinds(60)
    devices.refresh(list(devices.probes))
    devices.use(Settings("mixed", 1, "cuda", *H100), 64, 10)
    assert gpus(devices.available) == ["b/0"]
    assert [one.node for one in cluster.killed] == ["a"]


def on_cores(
    cluster: Cluster, most: int = 64, largest: int = 10, started_here: bool = False, threads: int = 1
) -> RayProcesses:
    """The processes of a run on the CPU, once all have answered."""
    processes = RayProcesses(cluster, started_here)
    processes.use(Settings(threads_per_unit=threads), most, largest)
    processes.refresh(list(processes.probes))
    return processes


def node_of(cores: int, memory: int = 1000) -> Cluster:
    cluster = Cluster(a=0)
    cluster.cores["a"] = (cores, memory)
    return cluster


def test_the_cores_of_a_node_are_divided_among_processes_that_book_them() -> None:
    cluster = node_of(2 * LANES + 2)
    processes = on_cores(cluster)
    assert [(one.lanes, one.booked["num_cpus"], one.booked["memory"]) for one in cluster.on_cores] == [
        (3, 3, 333), (3, 3, 333), (4, 4, 333),
    ]  # fmt: skip
    assert all(one.of == 3 for one in cluster.on_cores), "they share the memory"
    assert list(processes.available) == ["a/cores/0", "a/cores/1", "a/cores/2"]
    last = processes.available["a/cores/2"]
    assert (last.slots, last.ahead, last.memory, last.name) == (4, 8, 333, "a (10.0.0.1)")


def test_a_process_on_cores_that_ended_is_replaced_under_its_key() -> None:
    cluster = node_of(2 * LANES)
    processes = on_cores(cluster)
    lost = processes.process("a/cores/0")
    assert lost is not None
    processes.end(lost, "its process ended")
    assert list(processes.available) == ["a/cores/1"]
    processes.refresh()
    processes.refresh(list(processes.probes))
    assert sorted(processes.available) == ["a/cores/0", "a/cores/1"]
    assert processes.process("a/cores/0") is not lost
    assert len(cluster.on_cores) == 3


def test_cores_that_other_work_has_booked_are_left_to_it(caplog: pytest.LogCaptureFixture) -> None:
    cluster = node_of(8)
    cluster.idle = {"a": {"memory": 1000.0}}
    processes = on_cores(cluster)
    assert not cluster.on_cores
    assert caplog.messages == ["node a gets no units as long as other work has booked its cores"]
    cluster.idle = {"a": {"CPU": 5.0, "memory": 700.0}}
    processes.refresh()
    assert [(one.lanes, one.booked["memory"]) for one in cluster.on_cores] == [(4, 500), (1, 200)]
    assert len(caplog.messages) == 1


def test_the_next_run_gets_the_same_processes_unless_it_divides_a_node_otherwise() -> None:
    cluster = node_of(8)
    processes = on_cores(cluster)
    before = list(cluster.on_cores)
    processes.use(Settings(threads_per_unit=1), 100, 20)
    assert cluster.on_cores == before
    processes.use(Settings(threads_per_unit=1), 100, 900)
    assert cluster.ended_on_cores == before
    assert [one.lanes for one in cluster.on_cores[2:]] == [8]


def test_a_node_that_is_to_end_gives_back_what_does_not_compute_yet() -> None:
    cluster = Cluster(a=0, b=0)
    cluster.cores = {"a": (2, 100), "b": (2, 100)}
    processes = on_cores(cluster)
    cluster.leaving = ("a",)
    assert processes.refresh()
    assert list(processes.available) == ["b/cores/0"]
    assert processes.process("a/cores/0") is not None, "what it computes is waited for"
    processes.refresh()
    assert [one.node for one in cluster.drained] == ["a"]


def test_a_cluster_that_this_command_started_need_not_be_asked() -> None:
    processes = on_cores(node_of(2), started_here=True)
    assert not processes.probes
    assert [node.slots for node in processes.available.values()] == [2]


def test_a_merge_on_the_cpu_gives_gpus_back() -> None:
    cluster = Cluster(a=2)
    processes = starting(cluster)
    processes.use(Settings(threads_per_unit=1), 64, 10)
    assert cluster.killed == cluster.started
    processes.refresh(list(processes.probes))
    assert list(processes.available) == ["a/cores/0"]
    assert processes.available["a/cores/0"].slots == 4


def test_a_node_whose_gpus_cannot_be_used_computes_on_its_cores() -> None:
    cluster = Cluster(a=2)
    cluster.answer = lambda node, number: RayTaskError("Traceback\nRecipeError: torch is built for the CPU only")
    processes = starting(cluster)
    assert not processes.kinds(60).kinds
    processes.use(Settings(threads_per_unit=1), 64, 10)
    processes.refresh(list(processes.probes))
    assert list(processes.available) == ["a/cores/0"]


def test_without_a_gpu_cores_get_no_unit_of_a_merge_on_gpus() -> None:
    cluster = Cluster(a=1)
    devices = began(cluster)
    devices.refresh([ref for ref in devices.probes if ref[1] < 0])
    assert not devices.available, "its GPU has not answered yet"
    devices.refresh(list(devices.probes))
    assert list(devices.available) == ["a/0", "a/cores/0"]
