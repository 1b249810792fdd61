"""The inputs of a planned tensor: its bytes in each model, by elements, and the factors of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from svc_dist.plan.inputs import FactorRanges, InputRange, PlannedModel, every_location
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from svc_dist.storage.reading import ByteRange
from tests.support.checkpoints import llama_like, write_llamas, write_recipe


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_llamas(tmp_path_factory.mktemp("llamas"))


def plan(recipe: Path, **settings: Any) -> Plan:
    return make_plan(load_recipe(recipe), Settings(**settings))


def test_inputs_are_read_where_their_headers_say(models: list[Path], tmp_path: Path) -> None:
    made = plan(write_recipe(tmp_path / "r.yaml", models, rules=[{"match": "lm_head*", "keep": "base"}]))
    for tensor in made.tensors:
        kept = tensor.name == "lm_head.weight"
        assert len(tensor.sources) == (1 if kept else 3)
        for number, slot in enumerate(tensor.sources):
            with (models[number] / slot.file).open("rb") as file:
                file.seek(slot.start)
                data = file.read(slot.end - slot.start)
            expected = llama_like(number)[tensor.name]
            assert data == expected.contiguous().view(torch.uint8).numpy().tobytes()


def test_elements_of_a_slot_are_bytes_by_its_dtype() -> None:
    assert InputRange(0, "a", 100, 140, "BF16").range(3, 7) == ByteRange("a", 106, 114)
    assert InputRange(0, "a", 100, 180, "F32").range(0, 20) == ByteRange("a", 100, 180)


def test_of_an_adapters_b_only_the_rows_that_are_needed_are_read() -> None:
    b, a = InputRange(1, "a", 0, 2 * 5 * 3, "BF16"), InputRange(1, "a", 100, 100 + 2 * 3 * 4, "BF16")
    factors = FactorRanges(a, b, rank=3, scale=2.0, transposed=False, first=0, rows=5, columns=4)
    assert factors.rows_of_b(5, 9) == (1, 3)
    assert factors.ranges(5, 9) == (ByteRange("a", 100, 124), ByteRange("a", 6, 18))


def test_of_a_transposed_matrix_all_rows_are_read() -> None:
    a, b = InputRange(1, "a", 0, 2 * 3 * 5, "BF16"), InputRange(1, "a", 100, 100 + 2 * 4 * 3, "BF16")
    factors = FactorRanges(a, b, rank=3, scale=2.0, transposed=True, first=0, rows=5, columns=4)
    assert factors.rows_of_b(5, 9) == (0, 4)
    assert factors.ranges(5, 9) == (ByteRange("a", 0, 30), ByteRange("a", 100, 124))


def test_elements_of_an_input_in_parts_are_read_from_each_of_them() -> None:
    parts = (InputRange(1, "a", 8, 28, "BF16"), InputRange(1, "b", 0, 12, "BF16"), InputRange(1, "a", 40, 48, "BF16"))
    joined = InputRange(1, "a", 0, 40, "BF16", parts)  # 10, 6 and 4 elements
    assert list(joined.pieces(3, 10)) == [(parts[0], 3, 10)]
    assert list(joined.pieces(9, 17)) == [(parts[0], 9, 10), (parts[1], 0, 6), (parts[2], 0, 1)]
    assert list(joined.pieces(16, 20)) == [(parts[2], 0, 4)]


def test_adapters_of_models_come_after_all_models() -> None:
    adapter = PlannedModel("lora", ())
    both, alone = PlannedModel("expert", (), adapter=adapter), PlannedModel("other", ())
    assert every_location([PlannedModel("base", ()), both, alone])[1:] == (both, alone, adapter)
    assert (both.name, alone.name) == ("expert+lora", "other")
