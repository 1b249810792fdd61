"""A plan that was read refers only to what it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

import svc_dist
from svc_dist.plan.model import Plan
from svc_dist.run_folder.sound_plan import require_sound
from tests.plan.vocabulary.test_vocabularies import padded
from tests.support.checkpoints import recipe_data


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return svc_dist.make_plan(recipe_data(padded(tmp_path), vocab="union"))


def test_a_plan_is_sound(plan: Plan) -> None:
    require_sound(plan)
    require_sound(Plan.from_json(plan.to_json()))


def test_rows_that_no_input_has_are_found(plan: Plan) -> None:
    tensor = next(one for one in plan.tensors if one.maps is not None)
    assert tensor.maps is not None
    for maps in (
        replace(tensor.maps, own=tensor.maps.own[:-1]),
        replace(tensor.maps, own=(((0, 60, 5),), *tensor.maps.own[1:])),
        replace(tensor.maps, filled=((50, 1, ((7, 0),)),)),
    ):
        damaged = replace(plan, tensors=(structs.replace(tensor, maps=maps), *plan.tensors[1:]))
        with pytest.raises(ValueError, match="takes rows that its inputs do not have"):
            require_sound(damaged)
