"""The table of a plan's tensors: what many share is there once, and each comes out as it went in."""

from __future__ import annotations

import pytest
from msgspec import structs

import svc_dist
from svc_dist.plan.model import Plan
from svc_dist.plan.tables.tensors import TensorTable, planned_tensors, tensor_table
from tests.support.deepseek import Size, tensors, write_headers

SIZE = Size(
    layers=4, dense=1, experts=8, hidden=512, intermediate=768, expert=256, query=256, key_value=128, heads=4,
    vocabulary=1024,
)  # fmt: skip


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("models")
    models = [str(write_headers(folder / f"m{number}", SIZE, 8)) for number in range(3)]
    experts = [{"model": model, "parameters": {"weight": 0.5}} for model in models[1:]]
    recipe = {"base_model": models[0], "models": experts, "merge_method": "linear", "quantization": "none"}
    return svc_dist.make_plan(recipe)


@pytest.fixture(scope="module")
def table(plan: Plan) -> TensorTable:
    return tensor_table(plan.tensors)


def test_tensors_of_one_shape_and_format_share_a_kind(plan: Plan, table: TensorTable) -> None:
    shapes = {(dtype, shape) for name, dtype, shape in tensors(SIZE) if not name.endswith("_scale_inv")}
    assert len(plan.tensors) > 4 * len(table.kinds)
    assert len(table.kinds) == len(shapes)
    assert len(table.files) == 8
    assert [row.name for row in table.rows] == [tensor.name for tensor in plan.tensors]


def test_tensors_come_out_as_they_went_in(plan: Plan, table: TensorTable) -> None:
    assert planned_tensors(table) == plan.tensors
    opened = Plan.from_json(plan.to_json())
    assert opened == plan
    assert opened.to_json() == plan.to_json()


def test_copied_tensors_and_those_of_one_model_have_a_kind_of_their_own(plan: Plan) -> None:
    first = plan.tensors[0]
    others = (first, structs.replace(first, sources=first.sources[:1]), structs.replace(first, sources=(None, None)))
    assert planned_tensors(tensor_table(others)) == others
    assert len(tensor_table(others).kinds) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": -1}, "has no kind"),
        ({"kind": 10**6}, "has no kind"),
        ({"places": ()}, "a source without a place"),
        ({"places": (10**6, 0) * 20}, "a source without a place"),
        ({"places": (-1, 0) * 20}, "a source without a place"),
    ],
)
def test_rows_that_refer_to_what_is_not_there_are_refused(
    table: TensorTable, change: dict[str, object], words: str
) -> None:
    damaged = structs.replace(table, rows=(structs.replace(table.rows[0], **change), *table.rows[1:]))
    with pytest.raises(ValueError, match=words):
        planned_tensors(damaged)
