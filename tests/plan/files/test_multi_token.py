"""Layers for multi-token prediction: copied, left out or taken from a model, with a config that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from svc_dist.errors import PlanError, warning_code
from svc_dist.plan.beside import sidecar_contents
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import recipe_from
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.checkpoints import write_checkpoint

EXTRA = ("model.layers.2.eh_proj.weight", "model.layers.2.mlp.experts.0.up_proj.weight")
USUAL = [f"model.layers.{n}.mlp.experts.{e}.up_proj.weight" for n in range(2) for e in range(2)]


def planned(folder: Path, extra: str, rules: list[dict[str, Any]], **config: Any) -> Plan:
    """A merge of three models, of which those with a letter in ``extra`` have an extra layer."""
    for name in "abc":
        has = name in extra
        said = {"num_hidden_layers": 2, "num_nextn_predict_layers": int(has), **config}
        tensors = {one: torch.full((4, 4), 1.0 + ord(name)) for one in [*USUAL, *(EXTRA if has else ())]}
        write_checkpoint(folder / name, tensors, config=said)
    models = [{"model": str(folder / name)} for name in "bc"]
    data = {"base_model": str(folder / "a"), "models": models, "merge_method": "linear", "rules": rules}
    return make_plan(recipe_from(data), Settings())


def became(plan: Plan) -> dict[str, tuple[str, int]]:
    """What becomes of the extra layer, and from which model."""
    found = {one.name: plan.dispositions(one)[0] for one in plan.tensors}
    return {name: (found[name].kind, found[name].source) for name in EXTRA if name in found}


def config_of(plan: Plan) -> dict[str, Any]:
    ((_, data),) = sidecar_contents(plan, DEFAULT_ACCESS, [one for one in plan.sidecars if one.name == "config.json"])
    config: dict[str, Any] = json.loads(data)
    return config


def codes(plan: Plan) -> list[str | None]:
    return [warning_code(one) for one in plan.warnings]


def test_where_all_have_the_layer_it_is_merged(tmp_path: Path) -> None:
    plan = planned(tmp_path, "abc", [])
    assert became(plan) == dict.fromkeys(EXTRA, ("merged", 0))
    assert codes(plan) == []
    assert config_of(plan)["num_nextn_predict_layers"] == 1


@pytest.mark.parametrize("rules", [[], [{"match": "*", "models": ["base", "b", "c"]}]])
def test_where_an_expert_lacks_it_the_bases_is_copied_with_a_warning(tmp_path: Path, rules: Any) -> None:
    plan = planned(tmp_path, "ab", rules)
    assert became(plan) == dict.fromkeys(EXTRA, ("copied", 0))
    assert codes(plan) == ["mtp-missing"]
    text = plan.warnings[0]
    assert f"2 tensors like {EXTRA[0]} not in {tmp_path}/c: copied from the base" in text
    assert "{kind: mtp, keep: none}" in text
    assert config_of(plan)["num_nextn_predict_layers"] == 1


def test_where_the_base_lacks_it_it_is_left_out_with_a_warning(tmp_path: Path) -> None:
    plan = planned(tmp_path, "bc", [])
    assert became(plan) == {}
    assert [name for name, _ in plan.not_written] == [*EXTRA]
    assert f"2 tensors like {EXTRA[0]} not in {tmp_path}/a: left out; to take those of a model" in plan.warnings[0]
    assert config_of(plan)["num_nextn_predict_layers"] == 0


def test_a_rule_leaves_it_out_and_the_config_says_so(tmp_path: Path) -> None:
    plan = planned(tmp_path, "ab", [{"kind": "mtp", "keep": "none"}], text_config={"mtp_num_hidden_layers": 1})
    assert became(plan) == {}
    assert plan.not_written == tuple((name, "left out by rules[0]") for name in EXTRA)
    assert codes(plan) == []
    said = config_of(plan)
    assert (said["num_nextn_predict_layers"], said["text_config"]["mtp_num_hidden_layers"]) == (0, 0)
    assert {one.name for one in plan.tensors} == set(USUAL)


def test_a_rule_takes_it_from_a_model_and_the_config_follows(tmp_path: Path) -> None:
    plan = planned(tmp_path, "bc", [{"kind": "mtp", "keep": "c"}])
    assert became(plan) == dict.fromkeys(EXTRA, ("copied", 2))
    assert codes(plan) == []
    assert config_of(plan)["num_nextn_predict_layers"] == 1


def test_flags_are_set_too(tmp_path: Path) -> None:
    plan = planned(tmp_path, "abc", [{"kind": "mtp", "keep": "none"}], use_mtp=True, num_mtp_modules=3)
    said = config_of(plan)
    assert (said["use_mtp"], said["num_mtp_modules"]) == (False, 0)


def test_other_tensors_that_a_model_lacks_are_still_refused(tmp_path: Path) -> None:
    planned(tmp_path, "ab", [])
    write_checkpoint(tmp_path / "c", {name: torch.zeros(4, 4) for name in USUAL[1:]})
    data = {"base_model": str(tmp_path / "a"), "models": [{"model": str(tmp_path / "c")}], "merge_method": "linear"}
    with pytest.raises(PlanError, match=r"layers.0.mlp.experts.0.up_proj.weight: missing in"):
        make_plan(recipe_from(data), Settings())
