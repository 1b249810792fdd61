"""A folder without a safetensors model: the message says what it is and what to do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svc_dist.checkpoint.checkpoint import open_checkpoint
from svc_dist.errors import DamagedInputError, RecipeError


@pytest.mark.parametrize(
    ("files", "what", "hint"),
    [
        (["__0_0.distcp", ".metadata"], "torch.distributed", "dcp_to_torch"),
        (["model_world_size_8_rank_0.pt", "fsdp_config.json", "huggingface/config.json"], "verl", "verl.model_merger"),
        (["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"], "DeepSpeed", "zero_to_fp32"),
        (["latest_checkpointed_iteration.txt", "iter_0000100/mp_rank_00/x.pt"], "Megatron", "convert it"),
        (["model-Q4_K_M.gguf", "config.json"], "GGUF", "convert_hf_to_gguf"),
        (["flax_model.msgpack", "config.json"], "Flax", "from_flax=True"),
        (["tf_model.h5", "config.json"], "TensorFlow", "from_tf=True"),
        (["saved_model.pb", "variables/variables.index"], "TensorFlow", "from_tf=True"),
        (["model.onnx", "config.json"], "ONNX", "exported from"),
        (["openvino_model.bin", "openvino_model.xml"], "OpenVINO", "exported from"),
        (["weights.npz", "config.json"], "NumPy", "safetensors.numpy"),
        (["model.nemo"], "NeMo", "convert it"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "pickled", "save_pretrained"),
        (["consolidated.00.pth", "params.json"], "pickled", "save_pretrained"),
        (["model_index.json", "unet/diffusion_pytorch_model.safetensors"], "pipeline of diffusers", "sub-folder"),
    ],
)  # fmt: skip
def test_other_formats_are_named(tmp_path: Path, files: list[str], what: str, hint: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(DamagedInputError, match=f"{re.escape(str(tmp_path))}: .*{what}") as caught:
        open_checkpoint(str(tmp_path))
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_the_commands_for_a_distributed_checkpoint_make_a_model_of_it(tmp_path: Path) -> None:
    distributed = pytest.importorskip("torch.distributed.checkpoint")
    weight = torch.arange(6.0).view(2, 3).bfloat16()
    state = {"model.embed_tokens.weight": weight, "lm_head.weight": weight, "model.norm.weight": torch.ones(3)}
    saved = tmp_path / "step 100" / "pytorch_model_fsdp_0"
    distributed.save({"model": state, "optimizer": {"lr": 0.1}, "step": torch.tensor(7)}, checkpoint_id=saved)
    (tmp_path / "step 100" / "trainer_state.json").write_text("{}")
    with pytest.raises(DamagedInputError, match=r"torch.distributed \(DCP, FSDP\)") as caught:
        open_checkpoint(str(tmp_path / "step 100"))
    lines = str(caught.value.hint).splitlines()[1:4]
    commands = " && ".join(line.strip().replace("python", sys.executable) for line in lines)
    subprocess.run(commands, shell=True, check=True, cwd=tmp_path)
    made = load_file(tmp_path / "new_path" / "model.safetensors")
    assert set(made) == set(state)
    assert all(torch.equal(made[name], state[name]) for name in state)
    assert set(open_checkpoint(str(tmp_path / "new_path")).tensors) == set(state)


def test_a_folder_of_folders_names_the_one_with_the_model(tmp_path: Path) -> None:
    inner = tmp_path / "checkpoint-500"
    inner.mkdir()
    (inner / "model.safetensors").write_bytes(b"")
    with pytest.raises(RecipeError, match="only sub-folders are there") as caught:
        open_checkpoint(str(tmp_path))
    assert str(inner) in str(caught.value.hint)


def test_a_model_of_the_hub_s_cache_is_its_snapshot(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "5e1f"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"")
    (tmp_path / "models--owner--name" / "blobs").mkdir()
    with pytest.raises(RecipeError) as caught:
        open_checkpoint(str(tmp_path / "models--owner--name"))
    assert str(snapshot) in str(caught.value.hint)


def test_a_path_that_does_not_exist_is_a_wrong_recipe_and_names_what_is_like_it(tmp_path: Path) -> None:
    (tmp_path / "llama-math").mkdir()
    for wrong in ("lama-math", "lama-math/snapshot"):
        with pytest.raises(RecipeError, match="no such folder") as caught:
            open_checkpoint(str(tmp_path / wrong))
        assert str(tmp_path / "llama-math") in str(caught.value.hint)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(RecipeError, match="a file, but a model is a folder") as caught:
        open_checkpoint(str(file))
    assert str(tmp_path) in str(caught.value.hint)
