"""A small file in place of another is named as what it is, in place of any file of a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svc_dist.checkpoint.placeholder import placeholder
from svc_dist.errors import DamagedInputError
from svc_dist.plan.make import make_plan
from svc_dist.plan.settings import SettingsRequest
from svc_dist.recipe.load import load_recipe
from svc_dist.run.host import settings_here
from tests.support.checkpoints import INDEX, recipe_data, write_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 4976698672\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        (POINTER, "a Git LFS pointer", "git lfs pull"),
        (b"\xef\xbb\xbf" + POINTER, "a Git LFS pointer", "git lfs pull"),
        (PAGE, "an HTML page", "hf auth login"),
        (b"<html lang='en'>", "an HTML page", "hf auth login"),
        (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "an object storage", "credentials"),
        (b"Entry not found", "a web server", "download the file again"),
        (b"Access to model meta/x is restricted and you are not in the list.", "a web server", "HF_TOKEN"),
        (b"/annex/objects/SHA256E-s31390--f50d7ac4", "a git-annex pointer", "git annex get"),
        (b"../../blobs/" + b"5e" * 32, "a symbolic link of the Hugging Face cache", "cp -rL"),
        (b"# xet version 0\nfilesize = 5", "a pointer to Xet storage", "git lfs pull"),
    ],
)
def test_placeholders_are_told_by_their_first_bytes(text: bytes, what: str, hint: str) -> None:
    found = placeholder(text)
    assert found is not None
    assert what in found[0]
    assert hint in found[1]


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"\x10\0\0\0\0\0\0\0{", b"Not found is a token\nversion 2", b"{{ '<html>' }}", b"#version: 0.2\na b"],
)
def test_other_files_are_themselves(text: bytes) -> None:
    assert placeholder(text) is None


def models(folder: Path) -> list[Path]:
    tensors = {"model.norm.weight": torch.ones(8), "model.layers.0.mlp.up_proj.weight": torch.ones(8, 8)}
    return [write_checkpoint(folder / name, tensors, config={"model_type": "x"}) for name in ("base", "a")]


@pytest.mark.parametrize("text", [POINTER, PAGE], ids=["pointer", "page"])
@pytest.mark.parametrize(
    "file",
    ["model-00001-of-00002.safetensors", INDEX, "config.json", "tokenizer.json", "tokenizer.model", "vocab.txt",
     "merges.txt", "tokenizer_config.json", "chat_template.jinja", "modeling_x.py", "modules.json",
     "additional_chat_templates/tool.jinja"],
)  # fmt: skip
def test_in_place_of_any_file_of_the_base(tmp_path: Path, file: str, text: bytes) -> None:
    base, expert = models(tmp_path)
    (base / file).parent.mkdir(exist_ok=True)
    (base / file).write_bytes(text)
    with pytest.raises(DamagedInputError, match=r"Git LFS pointer|HTML page") as caught:
        make_plan(load_recipe(recipe_data([base, expert])), settings_here(SettingsRequest(), None))
    assert str(base / file) in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_in_place_of_a_file_of_an_adapter(tmp_path: Path, file: str) -> None:
    base, _ = models(tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    (adapter / file).write_bytes(POINTER)
    with pytest.raises(DamagedInputError, match="Git LFS pointer"):
        make_plan(load_recipe(recipe_data([base, adapter])), settings_here(SettingsRequest(), None))


def test_a_licence_that_is_a_web_page_is_left_out_with_a_warning(tmp_path: Path) -> None:
    base, expert = models(tmp_path)
    (base / "LICENSE").write_bytes(PAGE)
    plan = make_plan(load_recipe(recipe_data([base, expert])), settings_here(SettingsRequest(), None))
    assert any("LICENSE is not copied: an HTML page" in warning for warning in plan.warnings)
