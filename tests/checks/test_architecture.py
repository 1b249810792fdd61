"""Loading models in transformers: what is missing, misshapen or unused, and the rule that no foreign code runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from svc_dist.checks.architecture import load, read_config, reason_of, summarised
from tests.support.checkpoints import llama_config, llama_like, write_checkpoint

pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def test_problems_are_cut_after_the_first_five() -> None:
    assert summarised(["a", "b"]) == "a; b"
    assert summarised(list("abcdefg")) == "a; b; c; d; e ..."


def test_the_reason_is_the_first_line_or_the_kind_of_error() -> None:
    assert reason_of(ValueError("first\nsecond")) == "first"
    assert reason_of(KeyError()) == "KeyError"


def test_loading_lists_missing_misshapen_and_unused_tensors(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    tensors = llama_like(0) | {"model.norm.weight": torch.ones(5, dtype=torch.bfloat16), "extra": torch.ones(2)}
    del tensors["model.layers.1.mlp.up_proj.weight"]
    folder = write_checkpoint(tmp_path / "model", tensors, config=llama_config())
    model, wrong, unused = load(LlamaForCausalLM, str(folder), "cpu")
    assert wrong == [
        "model.layers.1.mlp.up_proj.weight is missing",
        "model.norm.weight has shape [5], not [16]",
    ]
    assert unused == ["extra is not part of the architecture"]
    assert torch.equal(model.get_input_embeddings().weight, llama_like(0)["model.embed_tokens.weight"])


def test_code_beside_a_model_is_not_run_for_its_config(tmp_path: Path) -> None:
    config = llama_config(model_type="own", auto_map={"AutoConfig": "own.Config"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="custom code"):
        read_config(str(tmp_path))
    assert not (tmp_path / "ran").exists()
