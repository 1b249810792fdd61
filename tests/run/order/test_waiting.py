"""The order in which waiting units start."""

from __future__ import annotations

from svc_dist.plan.model import Unit
from svc_dist.run.order.waiting import Group, Waiting
from svc_dist.run.placement import Need

GIB = 1 << 30


def unit(name: str, bytes_in: int, flops: float) -> Unit:
    return Unit(name, 0, 0, 1, (), bytes_in, 0, flops, 1)


def group(memory: int, device: int = 0) -> Group:
    return Group(Need(memory, device))


def test_processes_begin_with_the_smallest_inputs_that_keep_them_busy() -> None:
    units = [unit("large", 8 * GIB, 8e12), unit("small", GIB, 2e12), unit("quick", GIB // 8, 1e9)]
    waiting = Waiting(units)
    for number, one in enumerate(units):
        waiting.append(one, group(number))
    assert [waiting.first_of(one).id for one in waiting.to_begin_with()] == ["small", "large"]
    assert [waiting.first_of(one).id for one in waiting.groups()] == ["large", "small", "quick"]


def test_without_inputs_and_without_units_there_is_nothing_to_divide_by() -> None:
    assert Waiting([]).to_begin_with() == []
    empty = unit("empty", 0, 0.0)
    waiting = Waiting([empty])
    waiting.append(empty, group(1))
    assert waiting.to_begin_with() == [group(1)]


def test_the_waiting_work_is_counted_by_what_it_is_for() -> None:
    units = [unit("cores", 0, 3.0), unit("device", 0, 5.0)]
    waiting = Waiting(units)
    waiting.append(units[0], group(1))
    waiting.append(units[1], group(1, device=1))
    assert waiting.work == {False: 3.0, True: 5.0}
    taken = waiting.pop(group(1, device=1))
    assert waiting.work == {False: 3.0, True: 0.0}
    assert group(1, device=1) not in waiting
    waiting.appendleft(taken, group(1, device=1))
    assert waiting.work == {False: 3.0, True: 5.0}
