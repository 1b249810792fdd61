"""Loading models in transformers: what is missing, misshapen or unused, and the rule that no foreign code runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.checkpoint.formats.decoded import decoded_checkpoint
from svc_dist.checks.architecture import load, read_config, reason_of, shapes_of, summarised
from svc_dist.storage.access import DEFAULT_ACCESS
from tests.support.checkpoints import llama_config, llama_like, write_checkpoint
from tests.support.quantised import FAMILIES, quantised

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


@pytest.mark.parametrize("wrong", [False, True])
def test_codes_are_checked_by_the_shapes_of_what_they_stand_for(tmp_path: Path, wrong: bool) -> None:
    """Whatever library loading them takes: half of an NVFP4 weight's columns are no misshapen weight."""
    from transformers import LlamaForCausalLM

    tensors = llama_like(0, hidden=64, intermediate=96)
    if wrong:
        tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(64, 32)
    family = FAMILIES["nvfp4"]
    config = llama_config(hidden_size=64, intermediate_size=96, quantization_config=family.config)
    write_checkpoint(tmp_path, quantised(tensors, family)[0], config=config)
    model = decoded_checkpoint(open_checkpoint(str(tmp_path)), DEFAULT_ACCESS)
    with shapes_of(str(tmp_path), model) as folder:
        assert folder != str(tmp_path)
        _, problems, unused = load(LlamaForCausalLM, folder, "meta")
    misshapen = ["model.layers.1.mlp.down_proj.weight has shape [64, 32], not [64, 96]"]
    assert (problems, unused) == (misshapen if wrong else [], [])
    assert not Path(folder).exists()
