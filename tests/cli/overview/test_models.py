"""The models of a plan as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from svc_dist.cli.overview.models import model_lines
from tests.support.adapters import config, llama_modules, lora, write_adapter
from tests.support.checkpoints import recipe_data, write_llamas


def test_each_expert_has_its_weight_its_size_and_its_ranks(tmp_path: Path) -> None:
    base, one = write_llamas(tmp_path, experts=1)
    two = write_adapter(tmp_path / "two", lora(llama_modules(("q_proj", "v_proj")), rank=3), config(3, 3))
    recipe = recipe_data([base, one, two])
    recipe["models"][0]["parameters"] = {"weight": 0.4}
    recipe["models"][1]["parameters"] = {"weight": [0.2, 0.6]}  # from the first layer to the last
    head, first, second, third = model_lines(svc_dist.make_plan(recipe))
    assert head.split() == ["weight", "size", "model"]
    assert first.split()[0] == "base"
    assert first.endswith(f" {base}")
    assert second.split()[:3] == ["expert", "1", "0.4"]
    assert third.startswith("expert 2  0.6, 0.2") or third.startswith("expert 2  0.2, 0.6")
    assert third.endswith(f" {two}, adapter of rank 3 for 4 matrices")


@pytest.mark.parametrize("method", ["model_stock", "tsv_m", "swudi"])  # of the latter, embeddings are merged by linear
def test_a_method_without_weights_has_no_such_column(method: str, tmp_path: Path) -> None:
    lines = model_lines(svc_dist.make_plan(recipe_data(write_llamas(tmp_path), method), device="cpu"))
    assert lines[0].split() == ["size", "model"]
    assert len(lines) == 4


def test_weights_that_are_divided_by_their_sum_have_their_share_beside_them(tmp_path: Path) -> None:
    recipe = recipe_data(write_llamas(tmp_path), "linear")
    recipe["models"][0]["parameters"] = {"weight": 0.3}
    head, _, first, second = model_lines(svc_dist.make_plan(recipe))
    assert head.split() == ["weight", "share", "size", "model"]
    assert [line.split()[2:4] for line in (first, second)] == [["0.3", "0.231"], ["1", "0.769"]]
    added = recipe | {"parameters": {"normalize": False}}
    assert model_lines(svc_dist.make_plan(added))[0].split() == ["weight", "size", "model"]
    elected = recipe_data(write_llamas(tmp_path / "more"), "ties")
    assert model_lines(svc_dist.make_plan(elected))[0].split() == ["weight", "size", "model"]
