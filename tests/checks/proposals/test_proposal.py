"""A proposed recipe plans, says why, and holds the keys that its models need.

The modules are svc_dist.checks.proposals.proposal, svc_dist.checks.proposals.experts and
svc_dist.checks.proposals.advice.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import svc_dist
from svc_dist.checks.proposals.advice import Findings, advise
from svc_dist.checks.proposals.proposal import Proposal, propose
from svc_dist.errors import SvcDistError
from tests.plan.quantised.test_merges import write_models
from tests.support.adapters import lora, write_adapter
from tests.support.checkpoints import write_checkpoint, write_llamas

NAME = "model.layers.0.mlp.up_proj.weight"


def proposed(models: list[Path], folder: Path, **keys: object) -> Proposal:
    return propose(str(models[0]), [str(model) for model in models[1:]], folder, **keys)  # type: ignore[arg-type]


def test_a_recipe_for_fine_tunes_plans(tmp_path: Path) -> None:
    models = write_llamas(tmp_path / "models")
    text = proposed(models, tmp_path).text
    (tmp_path / "r.yaml").write_text(text)
    plan = svc_dist.make_plan(tmp_path / "r.yaml")
    assert {one.method for one in plan.results[0].dispositions} == {"swudi", "linear"}
    assert "# a full fine-tune\n" in text
    assert yaml.safe_load(text).get("calibrate", "none") == "none"


def test_experts_in_codes_are_warned_of(tmp_path: Path) -> None:
    coded, _ = write_models(tmp_path / "coded", [None, "fp8 blocks", "fp8 blocks"])
    assert "[quantised-experts]" in proposed(coded, tmp_path).text
    narrow, _ = write_models(tmp_path / "narrow", ["fp8 blocks", None, None])
    assert "[quantised-experts]" not in proposed(narrow, tmp_path).text


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_llamas(tmp_path / "models")
    monkeypatch.chdir(tmp_path / "models")
    text = propose("base", ["expert0", "expert1"], tmp_path).text
    assert yaml.safe_load(text)["base_model"] == "models/base"


@pytest.mark.parametrize("name", ["500", "1e3", "no", "@new", "a b"])
def test_a_folder_whose_name_is_no_plain_text_is_quoted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, first, *_ = write_llamas(tmp_path / "models")
    first.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    proposal = propose(str(base), [name], tmp_path)
    assert yaml.safe_load(proposal.text)["models"][0]["model"] == name
    assert not proposal.notes


def test_adapters(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", {NAME: torch.ones(8, 8)})
    shapes = {NAME.removesuffix(".weight"): (8, 8)}
    data = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}
    adapters = [write_adapter(tmp_path / name, lora(shapes, seed=seed), data) for seed, name in enumerate("ab")]
    text = proposed([base, *(tmp_path / name for name in "ab")], tmp_path).text
    assert len(adapters) == 2
    assert "a LoRA adapter of rank 2" in text
    assert "merge_method: swudi with exp_time 300, rank_ratio 0.3 and lambda 0.5" in text


def test_towers_are_kept(tmp_path: Path) -> None:
    names = [NAME, "visual.blocks.0.weight"]
    models = [write_checkpoint(tmp_path / name, {each: torch.ones(4, 4) for each in names}) for name in ("base", "one")]
    assert yaml.safe_load(proposed(models, tmp_path).text)["preset"] == "llm-backbone-only"


def test_other_vocabularies_get_a_line(tmp_path: Path) -> None:
    models = [
        write_checkpoint(tmp_path / name, {NAME: torch.ones(4, 4), "model.embed_tokens.weight": torch.ones(rows, 4)})
        for name, rows in (("base", 20), ("one", 22))
    ]
    done = proposed(models, tmp_path)
    assert yaml.safe_load(done.text)["vocab"] == "base"
    assert any(note.startswith("vocab: base: ") for note in done.notes)


def test_what_no_key_settles_is_a_comment(tmp_path: Path) -> None:
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    models = [
        write_checkpoint(tmp_path / name, {each: torch.ones(4, 4) for each in names})
        for name, names in (("base", [NAME, buffer]), ("one", [NAME]))
    ]
    done = proposed(models, tmp_path)
    assert "planning stops" in done.notes[0]
    assert "# fix: svc_dist stops here: 1 tensor cannot be merged" in done.text
    assert "rules:" in done.text


def test_no_recipe_for_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SvcDistError):
        proposed([tmp_path / "a", tmp_path / "b"], tmp_path)


def test_the_proposal_follows_the_number_of_experts_and_the_inspection(tmp_path: Path) -> None:
    assert advise(1, 0).calibrate is None
    assert (advise(2, 0).method, advise(5, 0).calibrate) == ("swudi", None)
    assert (advise(8, 0).method, advise(8, 0).parameters) == ("tsv_m", {"lambda": 0.5})
    apart = Findings(0.99, 1.0, 0.0, (0.1, 0.5))
    assert advise(4, 0, apart).method == advise(4, 0).method, "how little is shared decides nothing"
    assert any("differ much in size" in note for note in advise(4, 0, apart).notes)
    shared = Findings(0.5, 1.8, 0.4, (0.1, 0.1))
    assert (advise(4, 0, shared).method, advise(4, 4, shared).parameters) == ("swudi", {"lambda": 0.5})
    models = write_llamas(tmp_path / "models")
    text = proposed(models, tmp_path, inspect=lambda recipe: shared).text
    assert "counts what the experts learned 1.80 times (gamma 0.50)" in text
    assert "parameters" not in yaml.safe_load(text)["models"][0]
    text = proposed(models[:2], tmp_path, inspect=lambda recipe: apart).text
    assert json.dumps(yaml.safe_load(text)["models"][0]["parameters"]) == '{"weight": 1.0}'


def test_every_row_of_auto_is_a_proposal() -> None:
    for experts, adapters in ((1, 0), (3, 3), (3, 1), (8, 0)):
        assert advise(experts, adapters).why
