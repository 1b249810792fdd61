"""The time of a merge on the machine at hand, by typical rates."""

from __future__ import annotations

import pytest

import svc_dist
from svc_dist.forecast import this_machine
from svc_dist.forecast.data_sheets import START_HERE
from svc_dist.forecast.this_machine import estimate_here
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from tests.support.checkpoints import MODELS, recipe_data, sparse_checkpoint


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("models")
    shapes = MODELS["vicuna-7b"]()
    return recipe_data([sparse_checkpoint(folder / name, shapes) for name in ("base", "one", "two")])


def planned(recipe: dict[str, object], **keys: object) -> Plan:
    return svc_dist.make_plan(recipe | keys, device="cpu")


def test_more_work_and_fewer_cores_take_longer(recipe: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calibrated = planned(recipe), planned(recipe, calibrate="svc")
    seconds: dict[tuple[int, str], float] = {}
    for count in (2, 16):
        monkeypatch.setattr(this_machine, "cores", lambda count=count: count)
        for name, plan in (("plain", plain), ("svc", calibrated)):
            estimate = estimate_here(plan, remote=False)
            assert estimate is not None
            assert estimate.machine == f"{count} cores"
            seconds[count, name] = estimate.prediction.seconds
    assert START_HERE < seconds[2, "plain"] < seconds[2, "svc"]
    assert seconds[16, "plain"] == pytest.approx(seconds[2, "plain"], rel=0.1), "the disk bounds both"
    assert seconds[16, "svc"] < seconds[2, "svc"] / 4


def test_a_link_to_the_storage_bounds_what_is_remote(recipe: dict[str, object]) -> None:
    plan = planned(recipe)
    near, far = (estimate_here(plan, remote) for remote in (False, True))
    assert near is not None
    assert far is not None
    assert far.prediction.seconds > plan.bytes_in / 1.25e9
    assert "10Gbps" in far.basis
    assert "disk" in near.basis


def test_a_gpu_is_known_by_its_name_and_only_where_it_is_here(
    recipe: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    plan = planned(recipe, calibrate="svc")
    on_gpu = replace(plan, settings=Settings(device="cuda", gpu="NVIDIA H100 80GB HBM3", build="2.13.0+cu130"))
    assert estimate_here(on_gpu, remote=False) is None
    monkeypatch.setattr(this_machine, "detect_device", lambda: "cuda")
    monkeypatch.setattr(this_machine, "device_count", lambda kind: 2)
    estimate = estimate_here(on_gpu, remote=False)
    assert estimate is not None
    assert estimate.machine == "2 x NVIDIA H100 80GB HBM3"
    assert estimate.prediction.devices == 2
    other = replace(plan, settings=Settings(device="cuda", gpu="NVIDIA RTX 4090", build="2.13.0+cu130"))
    assert estimate_here(other, remote=False) is None
