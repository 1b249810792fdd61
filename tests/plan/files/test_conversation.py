"""A tokenizer, a chat template and an end of answers that only experts have: a warning with the key to set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import svc_dist
from tests.plan.files.test_sidecars import TOKENS, write_tokenizer
from tests.support.checkpoints import llama_config, recipe_data, write_llamas


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return write_llamas(tmp_path, experts=2)


def test_a_tokenizer_that_only_experts_have(models: list[Path]) -> None:
    assert svc_dist.make_plan(recipe_data(models)).warnings == ()
    for model in models[1:]:
        write_tokenizer(model, TOKENS)
    (warning,) = svc_dist.make_plan(recipe_data(models)).warnings
    assert warning == (
        f"{models[0]} has no tokenizer, and the result gets none, but {models[1]}, {models[2]} have one: set "
        f"`tokenizer_source: {models[1]}` [tokenizer-left-out]"
    )
    assert svc_dist.make_plan(recipe_data(models, tokenizer_source=str(models[1]))).warnings == ()


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_chat_template_that_only_experts_have(models: list[Path], where: str) -> None:
    for model in models:
        write_tokenizer(model, TOKENS)
    if where == "chat_template.jinja":
        (models[2] / where).write_text("{{ messages }}")
    else:
        write_tokenizer(models[2], TOKENS, "{{ messages }}")
    (warning,) = svc_dist.make_plan(recipe_data(models)).warnings
    assert warning.endswith(f"but {models[2]} has one: set `chat_template: auto` [chat-template-left-out]")
    for keys in ({"chat_template": "auto"}, {"tokenizer_source": "expert1"}):
        assert svc_dist.make_plan(recipe_data(models, **keys)).warnings == ()


def test_an_end_of_answers_that_only_experts_have(models: list[Path]) -> None:
    for model in models:
        write_tokenizer(model, TOKENS)
        (model / "config.json").write_text(json.dumps(llama_config(eos_token_id=39)))
    (models[1] / "generation_config.json").write_text('{"eos_token_id": [39, 7]}')
    config = json.loads((models[2] / "tokenizer_config.json").read_text())
    config["eos_token"] = {"content": "t7", "special": True}
    (models[2] / "tokenizer_config.json").write_text(json.dumps(config))
    one, other = svc_dist.make_plan(recipe_data(models)).warnings
    assert one.startswith(f"{models[1]} ends an answer with eos_token_id 7 (in the result: 39; `config_source`): ")
    assert other.startswith(f"{models[2]} ends an answer with eos_token t7 (in the result: </s>; `tokenizer_source`): ")
    keys = {"config_source": "expert0", "tokenizer_source": "expert1"}
    assert svc_dist.make_plan(recipe_data(models, **keys)).warnings == ()


def test_files_that_are_not_copied_may_be_damaged(models: list[Path]) -> None:
    write_tokenizer(models[0], TOKENS)
    for name in ("tokenizer_config.json", "generation_config.json"):
        (models[1] / name).write_text("[")
    assert svc_dist.make_plan(recipe_data(models)).warnings == ()
