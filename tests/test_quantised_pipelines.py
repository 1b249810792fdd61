"""The recipes of pipelines/ for models as they ship in codes, planned on headers: what becomes of which part."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import svc_dist
from svc_dist.plan.model import Plan
from svc_dist.recipe.rules.kinds import kinds_of
from tests.support import deepseek, gpt_oss

PIPELINES = Path(__file__).parents[1] / "pipelines"
SMALL = deepseek.Size(
    layers=5, dense=2, experts=4, hidden=256, intermediate=512, expert=128, query=128, key_value=128, rope=64, heads=2,
    head=64, vocabulary=512,
)  # fmt: skip


def plan_of(recipe: str, folder: Path, paths: list[Path], **keys: Any) -> Plan:
    data = yaml.safe_load((PIPELINES / recipe).read_text())
    models = [entry | {"model": str(path)} for entry, path in zip(data["models"], paths[1:], strict=True)]
    return svc_dist.make_plan(data | {"base_model": str(paths[0]), "models": models} | keys)


def outcomes(plan: Plan) -> Counter[tuple[str | None, str, tuple[int, ...]]]:
    """By kind of tensors: what becomes of them, and from or of which models."""
    kinds = kinds_of(one.name for one in plan.tensors)
    found: Counter[tuple[str | None, str, tuple[int, ...]]] = Counter()
    for tensor in plan.tensors:
        own = plan.dispositions(tensor)[0]
        merged = own.models or tuple(range(len(plan.models)))
        of = merged if own.kind == "merged" else (own.source,)
        found[kinds.get(tensor.name), own.method or own.kind, of] += 1
    return found


@pytest.mark.parametrize(
    "size", [SMALL, pytest.param(deepseek.Size(), marks=pytest.mark.slow)], ids=["small", "671B"]
)  # at full size 91,991 tensors in each of three models take a minute
def test_the_chimera_takes_experts_of_one_model_and_the_mean_of_others(size: deepseek.Size, tmp_path: Path) -> None:
    paths = [deepseek.write_headers(tmp_path / name, size, shards=7) for name in ("v3", "r1", "r1-0528")]
    plan = plan_of("deepseek-v3-chimera.yaml", tmp_path, paths)
    mixtures = size.layers - size.dense
    rest = 3 + 9 * size.layers + 3 * size.dense  # embedding, norm and head; attention and norms; dense layers
    assert outcomes(plan) == {
        ("routed_experts", "copied", (1,)): mixtures * size.experts * 3,
        ("router", "copied", (0,)): mixtures * 2,
        ("mtp", "copied", (0,)): 9 + 2 + 3 * (size.experts + 1) + 6,
        ("shared_experts", "linear", (0, 2)): mixtures * 3,
        (None, "linear", (0, 2)): rest,
    }
    assert plan.warnings == ()
    assert plan.not_written == ()
    header = {name for number in range(plan.count) for name in (part.name for part in plan.written(number))}
    assert header == {name for name, _, _ in deepseek.tensors(size)}, "written under the base's own names"


def test_without_the_extra_layer_the_chimeras_config_says_so(tmp_path: Path) -> None:
    paths = [deepseek.write_headers(tmp_path / name, SMALL, shards=3) for name in ("v3", "r1", "r1-0528")]
    data = yaml.safe_load((PIPELINES / "deepseek-v3-chimera.yaml").read_text())
    rules = [rule | ({"keep": "none"} if rule.get("kind") == "mtp" else {}) for rule in data["rules"]]
    plan = plan_of("deepseek-v3-chimera.yaml", tmp_path, paths, rules=rules)
    assert not any(".layers.5." in one.name for one in plan.tensors)
    (config,) = [one for one in plan.sidecars if one.name == "config.json"]
    assert config.values == {"num_nextn_predict_layers": 0}


def test_gpt_oss_is_merged_in_the_codes_it_ships_in(tmp_path: Path) -> None:
    size = gpt_oss.Size()
    paths = [gpt_oss.write_headers(tmp_path / name, size) for name in ("base", "code", "math")]
    plan = plan_of("gpt-oss.yaml", tmp_path, paths)
    assert outcomes(plan) == {
        ("routed_experts", "task_arithmetic", (0, 1, 2)): size.layers * 4,
        ("router", "copied", (0,)): size.layers * 2,
        (None, "task_arithmetic", (0, 1, 2)): 3 + size.layers * 11,
    }
    assert plan.warnings == ()
    calibrated = [one.name for one in plan.tensors if plan.dispositions(one)[0].calibration is not None]
    assert len(calibrated) == size.layers * 4
    assert all("self_attn" in name for name in calibrated)
    header = {name for number in range(plan.count) for name in (part.name for part in plan.written(number))}
    assert header == {name for name, _, _ in gpt_oss.tensors(size)}
