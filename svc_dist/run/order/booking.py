"""Books waiting units on the nodes that have room. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TypeVar

from svc_dist.plan.model import Unit
from svc_dist.run.order.waiting import Group, Waiting
from svc_dist.run.placement import Booking, Placement

Start = TypeVar("Start", bound=Hashable)


def book_waiting(
    waiting: Waiting, placement: Placement, most: int, start: Callable[[Unit, Booking], Start]
) -> list[Start]:
    """Book at most so many units. Returns what ``start`` makes of each, its key in ``placement``.

    Most work comes first. Where no node has room for a unit, the one with most room is reserved for it, and smaller
    units go to the others. A process that reads ahead begins with small inputs, from which it computes while those of
    larger units are read.
    """
    booked: list[Start] = []

    def book(group: Group, booking: Booking) -> None:
        unit = waiting.pop(group)
        booked.append(start(unit, booking))
        placement.book(booked[-1], replace(booking, work=unit.work))

    new = placement.take_new()
    for group in waiting.to_begin_with() if new else []:
        while len(booked) < most and group in waiting:
            booking = placement.find(group.need, None, group.avoid, placement.among_first(new))
            if booking is None:
                break
            book(group, booking)
    reserved: dict[bool, str | None] = {}  # by kind, the node with no smaller unit before the one waiting longest
    for group in waiting.groups():
        if placement.full or len(booked) >= most:
            break
        allowed = placement.within_share(waiting.first_of(group).work, waiting.work)
        booking = placement.find(group.need, reserved.get(group.need.device > 0), group.avoid, allowed)
        if booking is None:
            reserved.setdefault(group.need.device > 0, placement.to_reserve(group.need, group.avoid))
        else:
            book(group, booking)
    return booked
