"""Experts that change nothing, and those of another base, are named after the merge: the data tells, not headers."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import svc_dist
from svc_dist.plan.inputs import PlannedModel
from svc_dist.run_folder.experts import foreign_experts
from svc_dist.tensor_names import LayerRange
from tests.support.adapters import llama_modules, lora, write_adapter
from tests.support.checkpoints import llama_like, write_checkpoint, write_recipe


@pytest.mark.parametrize("trained", [True, False])
def test_an_adapter_that_was_never_trained(trained: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = lora(llama_modules())
    if not trained:
        pairs = {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in pairs.items()}
    models = [write_checkpoint(tmp_path / f"m{seed}", llama_like(seed)) for seed in range(2)]
    models.append(write_adapter(tmp_path / "a", pairs))
    with caplog.at_level(logging.WARNING, "svc_dist"):
        svc_dist.merge(write_recipe(tmp_path / "r.yaml", models), tmp_path / "out")
    warned = [record.getMessage() for record in caplog.records if "added nothing" in record.getMessage()]
    assert [warning.split(" ")[0] for warning in warned] == ([] if trained else [f"{tmp_path}/a"])


def test_an_expert_that_tensors_are_kept_from_adds_something(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = llama_like(0)
    expert = {name: weight + 1 if "mlp" in name else weight for name, weight in base.items()}
    models = [write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "expert", expert)]
    rules = [{"match": "*mlp*", "keep": "expert"}]
    with caplog.at_level(logging.WARNING, "svc_dist"):
        svc_dist.merge(write_recipe(tmp_path / "r.yaml", models, rules=rules), tmp_path / "out")
    assert "added nothing" not in caplog.text


@pytest.mark.parametrize(("own", "warned"), [(0.03, False), (0.3, False), (None, True)])
def test_an_expert_of_another_base_is_named_and_a_strong_fine_tune_is_not(
    own: float | None, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``own``: how large what it learned is, relative to the base; None: weights of its own."""
    base, generator = llama_like(0), torch.Generator().manual_seed(9)
    expert = {}
    for name, weight in base.items():
        noise = torch.randn(weight.shape, generator=generator) * weight.float().square().mean().sqrt()
        expert[name] = (noise if own is None else weight + own * noise).to(weight.dtype)
    models = [write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "tuned", llama_like(1))]
    models.append(write_checkpoint(tmp_path / "other", expert))
    with caplog.at_level(logging.WARNING, "svc_dist"):
        svc_dist.merge(write_recipe(tmp_path / "r.yaml", models), tmp_path / "out")
    found = [record for record in caplog.records if "expert-of-another-base" in record.getMessage()]
    said = f"{tmp_path}/other differs from {tmp_path}/base by as much as a model that was not trained from it"
    assert [said in record.getMessage() for record in found] == ([True] if warned else [])
    assert [record.fields for record in found] == [{"code": "expert-of-another-base"}] * warned  # type: ignore[attr-defined]
    assert (said in svc_dist.read_report(tmp_path / "out").verdict) == warned


def foreign(experts: str, deltas: list[dict[str, Any]], layers: LayerRange | None = None) -> list[str]:
    """The names of those that are said to be foreign. ``layers``: of the first."""
    models = [PlannedModel(name, ()) for name in f"0{experts}"]
    models[1] = replace(models[1], layers=layers)
    return [said.split(" differs from 0 ")[0] for said in foreign_experts(models, deltas)]


def test_a_few_tensors_and_a_base_of_zeros_tell_nothing() -> None:
    far, zero = {"base": 1.0, "gram": [2.0]}, {"base": 0.0, "gram": [2.0]}
    assert foreign("a", [far] * 3) == []
    assert foreign("a", [zero] * 9) == []
    assert foreign("a", [*[far] * 5, *[{"base": 1.0, "gram": [0.1]}] * 4]) == ["a"]


def test_values_that_are_not_finite_tell_nothing() -> None:
    far, base, expert = {"base": 1.0, "gram": [2.0]}, {"base": None, "gram": [2.0]}, {"base": 1.0, "gram": [None]}
    assert foreign("a", [*[far] * 3, base, base, expert, expert]) == []
    assert foreign("a", [*[far] * 4, base, expert]) == ["a"]


def test_each_expert_is_judged_by_the_tensors_that_it_is_merged_into() -> None:
    both = {"base": 1.0, "gram": [0.01, 0.0, 2.0]}
    second = {"base": 1.0, "gram": [0.01], "models": [0, 2]}
    assert foreign("ab", [both] * 4) == ["b"]
    assert foreign("ab", [*[both] * 4, *[second] * 4]) == []


def test_layers_that_may_be_stacked_over_others_tell_nothing() -> None:
    far = {"base": 1.0, "gram": [2.0, 0.0, 2.0]}
    assert foreign("ab", [far] * 4) == ["a", "b"]
    assert foreign("ab", [far] * 4, layers=LayerRange(0, 2, at=0)) == []
