"""What units need: their own memory, and that of what they read and write."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from svc_dist.methods.costs import ON_HOST
from svc_dist.plan.model import Plan
from svc_dist.run.pipeline.needs import Needs
from svc_dist.run.placement import Need
from tests.run.test_schedule import plan_of


def plan_reading(size: int, device: str = "cpu") -> Plan:
    plan = plan_of((0, 1.0, 100), device=device)
    return replace(plan, units=tuple(structs.replace(unit, bytes_in=size) for unit in plan.units))


def test_a_unit_needs_memory_for_itself_and_for_what_it_writes() -> None:
    assert Needs(plan_reading(1000), sink_memory=7).of("u0") == Need(107)


def test_inputs_that_land_in_memory_are_booked() -> None:
    assert Needs(plan_reading(1000), 7, landing=True).of("u0") == Need(1107)


def test_a_unit_on_a_device_books_its_inputs_on_the_host() -> None:
    assert Needs(plan_reading(1000, "cuda"), 7, landing=True).of("u0") == Need(ON_HOST + 1007, 100)
