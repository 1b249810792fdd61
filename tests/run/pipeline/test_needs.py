"""What units need: their own memory, and that of what they read and write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

import svc_dist
from svc_dist.methods.costs import ON_HOST
from svc_dist.plan.model import Plan
from svc_dist.run.pipeline.needs import Needs
from svc_dist.run.placement import Need
from tests.run.test_schedule import plan_of
from tests.support.checkpoints import write_llamas, write_recipe


def plan_reading(size: int, device: str = "cpu") -> Plan:
    plan = plan_of((0, 1.0, 100), device=device)
    return replace(plan, units=tuple(structs.replace(unit, bytes_in=size) for unit in plan.units))


def test_a_unit_needs_memory_for_itself_and_for_what_it_writes() -> None:
    assert Needs(plan_reading(1000), sink_memory=7).of("u0") == Need(107)


def test_inputs_that_land_in_memory_are_booked() -> None:
    assert Needs(plan_reading(1000), 7, landing=True).of("u0") == Need(1107)


def test_a_unit_on_a_device_books_its_inputs_on_the_host() -> None:
    assert Needs(plan_reading(1000, "cuda"), 7, landing=True).of("u0") == Need(ON_HOST + 1007, 100)


def planned(tmp_path: Path, **recipe: Any) -> Plan:
    models = write_llamas(tmp_path, experts=2, layers=1, hidden=64, intermediate=128, vocabulary=100)
    plan = svc_dist.make_plan(write_recipe(tmp_path / "recipe.yaml", models, max_shard_size="20KB", **recipe))
    return replace(plan, settings=replace(plan.settings, device="cuda"))


def test_units_that_are_merged_entry_by_entry_compute_on_cores_and_the_others_on_the_device(tmp_path: Path) -> None:
    plan = planned(tmp_path, calibrate="svc")
    needs = Needs(plan)
    for unit in plan.units:
        matrices = any(len(plan.tensors[number].shape) == 2 for number, _, _ in unit.pieces)
        tensors = [plan.tensors[number] for number, _, _ in unit.pieces]
        spectral = any(one.calibration for tensor in tensors for one in plan.dispositions(tensor))
        assert matrices or not spectral
        assert needs.on_host(unit) is not spectral
        assert (needs.of(unit.id).device == 0) is not spectral
    assert len({needs.on_host(unit) for unit in plan.units}) == 2


@pytest.mark.parametrize(("method", "on_host"), [("ties", True), ("tsv_m", False)])
def test_the_methods_decide(tmp_path: Path, method: str, on_host: bool) -> None:
    plan = planned(tmp_path, merge_method=method)
    of_matrices = [
        Needs(plan).on_host(unit)
        for unit in plan.units
        if any("proj" in plan.tensors[number].name for number, _, _ in unit.pieces)
    ]
    assert set(of_matrices) == {on_host}


def test_on_the_cpu_every_unit_computes_on_cores(tmp_path: Path) -> None:
    plan = planned(tmp_path, calibrate="svc")
    plan = replace(plan, settings=replace(plan.settings, device="cpu"))
    assert all(Needs(plan).on_host(unit) for unit in plan.units)
