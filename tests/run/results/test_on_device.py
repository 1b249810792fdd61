"""What a matrix costs on a device: its bytes once, few launches and waits, and no more memory than planned.

The device is pretended, as ``tests/support/pretended_device.py`` says: no figure here is one of a GPU.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.errors import DamagedInputError
from svc_dist.methods.registry import METHODS
from svc_dist.plan.make import make_plan
from svc_dist.plan.settings import SettingsRequest
from svc_dist.recipe.load import load_recipe
from svc_dist.run.devices import fallback
from svc_dist.run.devices.fallback import Attempt
from svc_dist.run.host import settings_here
from tests.support.checkpoints import recipe_data, write_checkpoint
from tests.support.pretended_device import Counts, counted_units
from tests.support.spectral_cases import CANDIDATES, SPECTRAL, fine_tunes

NAME = "model.layers.0.mlp.down_proj.weight"
SHAPE, EXPERTS = (192, 448), 3
GIVEN: dict[str, dict[str, Any]] = {"wudi": {"steps": 5}, "optmerge": {"steps": 5}}
CASES = [*((name, None) for name in (*SPECTRAL, *CANDIDATES)), ("task_arithmetic", "svc"), ("swudi", "svc")]
CASES += [("iso_c", "svc"), ("optmerge", "svc")]


def models(folder: Path, name: str = NAME, shape: tuple[int, ...] = SHAPE, experts: int = EXPERTS) -> list[Path]:
    noise = torch.Generator().manual_seed(9)
    base, *tunes = (one.view(shape) for one in fine_tunes(math.prod(shape[:-1]), shape[-1], experts))
    tensors = [base, *(tune + 0.002 * torch.randn(shape, generator=noise) for tune in tunes)]
    return [write_checkpoint(folder / str(at), {name: one.bfloat16()}, 1) for at, one in enumerate(tensors)]


def merged(recipe: dict[str, Any], out: Path, device: str) -> dict[str, Tensor]:
    svc_dist.merge(recipe, out, executor="inline", slots=1, device=device)
    return load_file(out / "model.safetensors")


def on_both(recipe: dict[str, Any], folder: Path, name: str = NAME) -> tuple[Counts, float]:
    """What the device did, and how far its result is from the CPU's, relative to how far that is from the base."""
    with counted_units() as counts:
        there = merged(recipe, folder / "there", "cuda")
    here, base = merged(recipe, folder / "here", "cpu"), load_file(folder / "0/model.safetensors")
    off = (there[name].float() - here[name].float()).norm() / (here[name].float() - base[name].float()).norm()
    return counts, float(off)


def planned(recipe: dict[str, Any]) -> int:
    plan = make_plan(load_recipe(recipe), settings_here(SettingsRequest(device="cuda"), None))
    return max(unit.memory for unit in plan.units)


@pytest.mark.parametrize(("method", "calibrate"), CASES, ids=str)
def test_a_matrix_costs_its_bytes_once_and_few_waits(tmp_path: Path, method: str, calibrate: str | None) -> None:
    given = {"parameters": GIVEN[method]} if method in GIVEN else {}
    recipe = recipe_data(models(tmp_path), method, **given, **({"calibrate": calibrate} if calibrate else {}))
    counts, off = on_both(recipe, tmp_path)
    assert off <= 6e-3  # of bfloat16 about half of a last place
    once = 2 * math.prod(SHAPE) * (EXPERTS + 1)
    assert once <= counts.sent <= once + 5 * 8 * (20 * sum(SHAPE))  # and vectors that estimates start from
    assert counts.waits < 20
    assert counts.launches < 1000
    with counted_units():
        assert counts.peak <= planned(recipe)
    assert counts.held == 0


def test_a_step_of_descent_is_two_calls_and_no_wait(tmp_path: Path) -> None:
    folders, counted = models(tmp_path), []
    for steps in (5, 25):
        with counted_units() as counts:
            merged(recipe_data(folders, "wudi", parameters={"steps": steps}), tmp_path / f"{steps}", "cuda")
            counted.append((counts.launches, counts.waits))
    assert counted[1][0] - counted[0][0] == 2 * 20
    assert counted[1][1] == counted[0][1]


def test_experts_that_do_not_fit_are_sent_each_time_and_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_data(models(tmp_path), "tsv_m", calibrate="svc")
    with counted_units() as counts:
        staying = merged(recipe, tmp_path / "staying", "cuda")
        sent, peak = counts.sent, counts.peak
        monkeypatch.setattr("svc_dist.run.results.values.inputs_that_stay", lambda *_: 2)
        counts.reset()
        streamed = merged(recipe, tmp_path / "streamed", "cuda")
    assert torch.equal(streamed[NAME], staying[NAME])
    assert counts.sent > 1.5 * sent
    assert counts.peak < peak


MIXTURE = "model.layers.0.mlp.experts.gate_up_proj"
TOGETHER = [
    (method, calibrate, shape)
    for method, calibrate in (("task_arithmetic", "svc"), ("iso_c", "svc"), ("tsv_m", "svc"), ("swudi", None))
    for shape in ((6, 40, 64), (6, 64, 40))
]


@pytest.mark.parametrize(("method", "calibrate", "shape"), TOGETHER, ids=str)
def test_small_matrices_of_a_mixture_are_merged_together(
    tmp_path: Path, method: str, calibrate: str | None, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = models(tmp_path, MIXTURE, shape)
    given = {"calibrate": calibrate} if calibrate else {}
    recipe = recipe_data(folders, method, rules=[{"match": MIXTURE, "stored": "out_in"}], **given)
    counts, off = on_both(recipe, tmp_path, MIXTURE)
    assert off <= 6e-3
    assert counts.waits <= 9  # of all six
    assert counts.launches < 620
    assert counts.sent <= 1.5 * 2 * math.prod(shape) * (EXPERTS + 1)
    with counted_units():
        assert counts.peak <= planned(recipe)
    monkeypatch.setattr("svc_dist.methods.batches.merged._suits", lambda _: False)
    with counted_units() as counts:
        merged(recipe, tmp_path / "alone", "cuda")
        assert counts.launches > 600
        assert counts.waits >= 30
    together, alone = (summaries(tmp_path / name) for name in ("there", "alone"))
    assert [one["matrix"] for one in together] == list(range(6))
    for one, other in zip(together, alone, strict=True):
        assert set(one) == set(other)
        assert one["sigma"] == pytest.approx(other["sigma"], rel=1e-3)
        assert one.get("kept_rank") == other.get("kept_rank")
        assert one.get("gamma", [0]) == pytest.approx(other.get("gamma", [0]), rel=1e-3)


def summaries(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "merge_report.json").read_text())["matrices"]
    return found


def test_a_matrix_among_others_that_no_expert_changes_keeps_its_bytes(tmp_path: Path) -> None:
    folders = models(tmp_path, MIXTURE, (6, 40, 64))
    base = load_file(folders[0] / "model.safetensors")[MIXTURE]
    for folder in folders[1:]:
        changed = load_file(folder / "model.safetensors")[MIXTURE].clone()
        changed[2] = base[2]
        write_checkpoint(folder, {MIXTURE: changed}, 1)
    recipe = recipe_data(folders, "iso_c", rules=[{"match": MIXTURE, "stored": "out_in"}])
    _, off = on_both(recipe, tmp_path, MIXTURE)
    assert off <= 6e-3
    assert torch.equal(load_file(tmp_path / "there/model.safetensors")[MIXTURE][2], base[2])


def test_a_result_that_does_not_fit_is_an_error_that_names_the_input(tmp_path: Path) -> None:
    folders = models(tmp_path)
    broken = load_file(folders[2] / "model.safetensors")[NAME].clone()
    broken[3, 5] = math.nan
    write_checkpoint(folders[2], {NAME: broken}, 1)
    for method in ("task_arithmetic", "swudi", "star", "tsv_m"):
        with counted_units(), pytest.raises(DamagedInputError) as caught:
            merged(recipe_data(folders, method, calibrate="svc"), tmp_path / method, "cuda")
        assert "holds nan at element" in f"{caught.value}"


def test_the_path_of_least_memory_keeps_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_data(models(tmp_path, shape=(448, 192)), "swudi", calibrate="svc")
    _, off = on_both(recipe, tmp_path)
    monkeypatch.setattr(fallback, "attempts", lambda device, *_, **__: [Attempt(device, True)])
    with counted_units() as counts:
        low = merged(recipe, tmp_path / "low", "cuda")[NAME].float()
    usual = load_file(tmp_path / "here/model.safetensors")[NAME].float()
    base = load_file(tmp_path / "0/model.safetensors")[NAME].float()
    assert float((low - usual).norm() / (usual - base).norm()) <= 6e-3
    assert off <= 6e-3
    assert counts.sent > 2 * 2 * math.prod(SHAPE) * (EXPERTS + 1)


def test_every_spectral_method_is_counted() -> None:
    assert {name for name, _ in CASES} >= {name for name, one in METHODS.items() if one.family == "spectral"}
