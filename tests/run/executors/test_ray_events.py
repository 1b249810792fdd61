"""What ``svc_dist.run.executors.ray`` makes of how a unit ended, with Ray's own errors and no cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import exceptions

from svc_dist.errors import DeviceFailedError, DeviceTooSmallError, UnitsFailedError
from svc_dist.plan.settings import Settings
from svc_dist.run.executors.ray import RayExecutor
from svc_dist.run.executors.ray_process import Process
from svc_dist.run.executors.ray_processes import RayProcesses
from svc_dist.run.placement import Booking
from svc_dist.run.schedule import Done, Failed, RunUnit
from tests.run.executors.test_ray_processes import Cluster, answered, gpus
from tests.run.test_schedule import plan_of

UNIT, OTHER = RunUnit("u0", Booking("a/0", 1)), RunUnit("u1", Booking("a/0", 1))


@pytest.fixture
def executor() -> RayExecutor:
    """With two units on the first of two GPUs."""
    made: Any = RayExecutor.__new__(RayExecutor)
    cluster: Any = Cluster(a=2)
    processes: RayProcesses = answered(cluster)
    cluster.exceptions = exceptions
    made._ray, made._processes = cluster, processes
    made._plan = plan_of((0, 1, 50), (0, 1, 50), device="cuda")
    made._arguments, made._events = (), []
    made._metrics = SimpleNamespace(started=lambda *_: None, ended=lambda *_: None)
    device = processes.process("a/0")
    made._refs, made._on = {"0": UNIT, "1": OTHER}, {"0": device, "1": device}
    executor: RayExecutor = made
    return executor


def end(executor: Any, ref: str, outcome: Any) -> Any:
    """The event of a unit that ended so."""

    def get(_: str) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    executor._ray.get = get
    return executor._event(ref)


def task_error(cause: Exception) -> exceptions.RayTaskError:
    return exceptions.RayTaskError("execute", "traceback", cause)


def device(executor: Any, key: str = "a/0") -> Process | None:
    found: Process | None = executor._processes.process(key)
    return found


def test_a_unit_that_is_done(executor: RayExecutor) -> None:
    assert end(executor, "0", Done(UNIT)) == Done(UNIT)


def test_a_device_that_failed_takes_no_more_units_and_only_one_of_its_units_counts(executor: RayExecutor) -> None:
    failed = end(executor, "0", task_error(DeviceFailedError("cuda failed: CUDA error: an illegal memory access")))
    assert isinstance(failed, Failed)
    assert failed.lost
    assert not failed.uncounted
    assert failed.error.message == "GPU 0 of a (10.0.0.1): cuda failed: CUDA error: an illegal memory access"
    assert gpus(executor.nodes) == ["a/1"]
    for error in (exceptions.ActorDiedError(), task_error(DeviceFailedError("the same context"))):
        executor._refs["1"], executor._on["1"] = OTHER, executor._on.get("1") or Process("a", None, ended="it failed")
        beside = end(executor, "1", error)
        assert (beside.lost, beside.uncounted, beside.killed) == (True, True, False)


def test_of_units_whose_process_was_killed_any_may_be_the_reason_so_none_counts(executor: RayExecutor) -> None:
    for ref in ("0", "1"):
        killed = end(executor, ref, exceptions.ActorDiedError())
        assert (killed.lost, killed.killed, killed.uncounted) == (True, True, True)
        assert killed.error.message.startswith("the worker was lost: ActorDiedError: ")


def test_a_unit_alone_in_a_process_that_was_killed_counts_and_its_device_comes_back(executor: RayExecutor) -> None:
    del executor._refs["1"], executor._on["1"]
    killed = end(executor, "0", exceptions.ActorDiedError())
    assert (killed.lost, killed.killed, killed.uncounted) == (True, True, False)
    assert gpus(executor.nodes) == ["a/1"]
    executor._processes.refresh()
    executor._ray.get = lambda ref: Cluster().answer(ref[0], ref[1])
    executor._processes.refresh(list(executor._processes.probes))
    assert sorted(gpus(executor.nodes)) == ["a/0", "a/1"]


def test_what_was_killed_for_memory_says_so(executor: RayExecutor) -> None:
    killed = end(executor, "0", exceptions.OutOfMemoryError("the node is low on memory"))
    assert (killed.killed, killed.uncounted) == (True, True)
    assert killed.error.message.startswith("the worker was killed for memory: OutOfMemoryError: ")


def test_a_process_that_cannot_be_reached_says_nothing_about_its_units(executor: RayExecutor) -> None:
    for ref in ("0", "1"):
        lost = end(executor, ref, exceptions.ActorUnavailableError("connection reset", None))
        assert (lost.lost, lost.killed, lost.uncounted) == (True, False, True)
    assert gpus(executor.nodes) == ["a/1"]


@pytest.mark.parametrize("kind", ["task", "process"])
def test_a_node_that_went_away_is_no_attempt(executor: RayExecutor, kind: str) -> None:
    error = exceptions.NodeDiedError("the node is dead") if kind == "task" else exceptions.ActorDiedError()
    if kind == "process":
        error.error_msg = "The actor died because its node has died. Node Id: 7"
    gone = end(executor, "0", error)
    assert (gone.lost, gone.uncounted, gone.killed) == (True, True, False)
    assert "lost with its node" in gone.error.message


def test_what_does_not_fit_onto_its_gpu_runs_on_cores_that_are_booked_for_it(executor: RayExecutor) -> None:
    too_small = task_error(DeviceTooSmallError("the unit does not fit onto its GPU: CUDA out of memory"))
    sent = end(executor, "0", too_small)
    assert (sent.lost, sent.uncounted, sent.too_small, sent.killed) == (True, True, True, False)
    assert device(executor) is not None, "its GPU is well"


def test_without_such_cores_it_is_refused_with_what_it_needs(executor: RayExecutor) -> None:
    executor._plan = plan_of((0, 1, 10**6), (0, 1, 50), device="cuda")
    refused = end(executor, "0", task_error(DeviceTooSmallError("the unit does not fit onto its GPU: out of memory")))
    assert isinstance(refused.error, UnitsFailedError)
    assert not refused.lost
    assert (
        refused.error.hint == "use GPUs with more memory, or a node with 1 core beside its GPUs and 1.00 MB of memory"
    )


def test_a_unit_that_does_not_answer_ends_its_process_and_the_other_unit_is_no_attempt(executor: RayExecutor) -> None:
    on = device(executor)
    assert executor.abandon(UNIT)
    assert list(executor._refs) == ["1"]
    assert on is not None
    assert executor._ray.killed == [on.actor]
    beside = end(executor, "1", exceptions.ActorDiedError())
    assert (beside.lost, beside.uncounted) == (True, True)
    assert "unit u0 did not answer" in beside.error.message


def test_a_unit_for_a_process_that_has_just_ended_is_no_attempt(executor: RayExecutor) -> None:
    on = device(executor)
    assert on is not None
    executor._processes.end(on, "its process ended")
    executor.submit(RunUnit("u1", Booking("a/0", 1)))
    (failed,) = executor._events
    assert isinstance(failed, Failed)
    assert (failed.lost, failed.uncounted) == (True, True)
    assert Settings(device="cuda") == executor._plan.settings


def test_what_is_in_flight_at_the_end_of_a_run_ends_with_its_process(executor: Any) -> None:
    executor._own, executor._head, on = None, SimpleNamespace(lost=True), device(executor)
    executor.close()
    assert not executor._ray.killed, "a cluster without a head is not asked"
    executor._head.lost = False
    executor.close()
    assert on is not None
    assert executor._ray.killed == [on.actor]
