"""Whose tokenizer, config and chat template a result gets, and that its vocabulary is that of the merged rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.cli.texts import plan_lines
from svc_dist.errors import ChangedInputError, DamagedInputError, PlanError, RecipeError
from svc_dist.plan.files import sidecars
from svc_dist.plan.files.tokenizer import TEMPLATES
from tests.support.checkpoints import recipe_data, write_llamas

TOKENS = {f"t{number}": number for number in range(38)} | {"<s>": 38, "</s>": 39}


def write_tokenizer(folder: Path, tokens: dict[str, int], template: str | None = None, kind: str = "json") -> None:
    """A tokenizer of whole words, as the library's own loader takes it (``json``), or of the old kind (``txt``)."""
    if kind == "txt":
        (folder / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.__getitem__)))
        return
    added = [{"id": n, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for token, n in tokens.items() if token.startswith("<")]  # fmt: skip
    model = {"type": "WordLevel", "vocab": tokens, "unk_token": "t0"}
    data = {"version": "1.0", "model": model, "added_tokens": added, "pre_tokenizer": {"type": "Whitespace"}}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return write_llamas(tmp_path, experts=2)


def merged(models: list[Path], **keys: Any) -> PreTrainedTokenizerFast:
    """The tokenizer of a merge, as the library loads it."""
    output = models[0].parent / "out"
    svc_dist.merge(recipe_data(models, **keys), output, executor="inline")
    report = json.loads((output / "merge_report.json").read_text())
    files = {path.name for path in output.iterdir() if path.is_file()}
    assert set(report["files"]) == files, "the report names every file that was written"
    return PreTrainedTokenizerFast.from_pretrained(output)


@pytest.mark.parametrize("spelling", ["tokenizer_source", "tokenizer"])
def test_the_tokenizer_is_the_base_s_or_that_of_a_model_by_name(models: list[Path], spelling: str) -> None:
    more = {**{token: n for token, n in TOKENS.items() if n != 37}, "<|chat|>": 37}
    write_tokenizer(models[0], TOKENS, "base")
    write_tokenizer(models[1], TOKENS, "one")

    def said(source: str) -> dict[str, Any]:
        return {spelling: {"source": source} if spelling == "tokenizer" else source}

    plan = svc_dist.make_plan(recipe_data(models, **said("base")))
    assert {sidecar.source for sidecar in plan.sidecars} == {0}
    assert merged(models, **said("expert0")).chat_template == "one"
    write_tokenizer(models[1], more)
    plan = svc_dist.make_plan(recipe_data(models, **said("expert0")))
    reason = next(plan.dispositions(tensor)[0].reason for tensor in plan.tensors if tensor.name == "lm_head.weight")
    assert f"39 that all models have, 1 from {models[1]}" in reason
    kept = [{"match": ["*embed_tokens*", "lm_head*"], "keep": "expert0"}]
    svc_dist.make_plan(recipe_data(models, rules=kept, **said("expert0")))  # nothing of the rows is merged


def test_embeddings_are_rearranged_only_where_the_recipe_asks_for_a_tokenizer(models: list[Path]) -> None:
    write_tokenizer(models[0], TOKENS)
    write_tokenizer(models[2], {**TOKENS, "t3": 4, "t4": 3})
    with pytest.raises(PlanError, match=r"rows of different tokens:\n  the token 't3' is number 3 in .*base, but 4 in"):
        svc_dist.make_plan(recipe_data(models))
    plan = svc_dist.make_plan(recipe_data(models, tokenizer_source="base"))
    tensor = next(tensor for tensor in plan.tensors if tensor.name == "lm_head.weight")
    assert tensor.maps is not None
    assert tensor.maps.own == (((0, 0, 40),), ((0, 0, 40),), ((0, 0, 3), (3, 4, 1), (4, 3, 1), (5, 5, 35)))


def test_grown_vocabularies_are_cut_to_the_tokens_of_the_base(tmp_path: Path) -> None:
    base, one = write_llamas(tmp_path / "a", experts=1)[0], write_llamas(tmp_path / "b", experts=1, vocabulary=42)[1]
    write_tokenizer(base, TOKENS)
    write_tokenizer(one, TOKENS | {"<|im_start|>": 40, "<|im_end|>": 41})
    plan = svc_dist.make_plan(recipe_data([base, one], vocab="base"))
    assert next(t.shape for t in plan.tensors if t.name == "lm_head.weight") == (40, 16)
    plan = svc_dist.make_plan(recipe_data([base, one], tokenizer_source="base"))  # as mergekit does it
    assert next(t.shape for t in plan.tensors if t.name == "lm_head.weight") == (40, 16)
    with pytest.raises(
        PlanError, match=r"has tokens like '<\|im_start\|>', of number 40, but the merged embeddings have"
    ):
        svc_dist.make_plan(recipe_data([base, one], vocab="base", tokenizer_source="expert0"))
    write_tokenizer(one, {"<|im_start|>": 0, "<|im_end|>": 1} | {token: n + 2 for token, n in TOKENS.items()})
    plan = svc_dist.make_plan(recipe_data([base, one], vocab="base"))
    maps = next(tensor.maps for tensor in plan.tensors if tensor.name == "lm_head.weight")
    assert maps is not None
    assert maps.own == (((0, 0, 40),), ((0, 2, 40),))


@pytest.mark.parametrize("source", ["base", "expert1"])
def test_tokenizers_that_cannot_be_compared_or_are_not_there_are_refused(models: list[Path], source: str) -> None:
    write_tokenizer(models[0], TOKENS)
    (models[1] / "tokenizer.model").write_bytes(b"pieces")
    wanted = "cannot be compared" if source == "base" else "expert1 has no tokenizer"
    (warning,) = svc_dist.make_plan(recipe_data(models)).warnings
    assert "have no format in common" in warning
    with pytest.raises((PlanError, RecipeError), match=wanted):
        svc_dist.make_plan(recipe_data(models, tokenizer_source=source))


def test_a_model_without_a_config_is_no_source_of_it(models: list[Path]) -> None:
    (models[1] / "config.json").unlink()
    with pytest.raises(RecipeError, match=r"config_source\): .*expert0 has no config\.json"):
        svc_dist.make_plan(recipe_data(models, config_source="expert0"))


def test_the_chat_template_that_most_models_have_or_the_one_named(models: list[Path]) -> None:
    for model, template in zip(models, ("rare", "often", "often "), strict=True):
        write_tokenizer(model, TOKENS, template)
    assert merged(models, chat_template="auto").chat_template == "often"
    plan = svc_dist.make_plan(recipe_data(models, chat_template="{{ messages }} by hand"))
    assert plan.chat_template == "{{ messages }} by hand"
    (models[2] / "chat_template.jinja").write_text("rare")
    assert svc_dist.make_plan(recipe_data(models, chat_template="auto")).chat_template == "rare"
    with pytest.raises(RecipeError, match="there is no chat template 'chatlm'") as caught:
        svc_dist.make_plan(recipe_data(models, chat_template="chatlm"))
    assert "did you mean 'chatml'?" in str(caught.value.hint)


CHAT = [
    {"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]  # fmt: skip
SAID = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "U<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nV"
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "alpaca": "S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n",
    "mistral": "<s> [INST] S\n\nU [/INST] A</s> [INST] V [/INST]",
    "exaone": "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n[|assistant|]",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_named_template_says_what_models_were_trained_with(models: list[Path], name: str) -> None:
    write_tokenizer(models[0], TOKENS, "another")
    tokenizer = merged(models, chat_template=name)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == SAID[name]


def test_without_a_template_auto_is_refused(models: list[Path]) -> None:
    with pytest.raises(RecipeError, match="no model has a chat template"):
        svc_dist.make_plan(recipe_data(models, chat_template="auto"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tokenizer_config.json", "{", r"base/tokenizer_config\.json: not valid JSON"),
        ("generation_config.json", "[]", r"base/generation_config\.json: not a JSON object"),
        ("tokenizer_config.json", '{"chat_template": ["{{ one }}"]}', "chat_template is neither a template nor a list"),
        ("chat_template.json", '{"chat_template": 3}', "chat_template is neither a template nor a list"),
        ("modules.json", '{"path": 3}', "not a list of modules"),
        ("modules.json", '[{"path": "../other"}]', "lies outside the model's folder"),
    ],
)
@pytest.mark.parametrize("keys", [{}, {"chat_template": "auto"}])
def test_a_file_that_no_loader_can_read_is_refused_when_planned(
    models: list[Path], name: str, text: str, said: str, keys: dict[str, Any]
) -> None:
    write_tokenizer(models[1], TOKENS, "one")
    (models[0] / name).write_text(text)
    with pytest.raises(DamagedInputError, match=said):
        svc_dist.make_plan(recipe_data(models, **keys))


def test_a_template_without_its_loader_s_form_is_refused_for_auto_in_any_model(models: list[Path]) -> None:
    (models[2] / "tokenizer_config.json").write_text('{"chat_template": ["{{ one }}"]}')
    with pytest.raises(DamagedInputError, match=r"expert1/tokenizer_config\.json: chat_template is neither"):
        svc_dist.make_plan(recipe_data(models, chat_template="auto"))


def test_every_file_beside_the_weights_is_copied_or_listed_with_a_reason(
    models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = models[0]
    (base / "modules.json").write_text('[{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"path": "2_Dense"}]')
    for name, text in {
        "1_Pooling/config.json": "{}", "2_Dense/config.json": "{}", "custom_generate/generate.py": "code = 2",
        "additional_chat_templates/tool_use.jinja": "tools", "bpe.bpe": "merges", "modeling_x.py": "code = 1",
        "LICENSE": "free", "preprocessor_config.json": "{}", "pytorch_model.bin": "pickle", "model.gguf": "gguf",
        "onnx/model.onnx": "onnx", "trainer_state.json": "{}", "picture.png": "png", "notes.json": "{",
        "huge.spm": "x" * 4000,
    }.items():  # fmt: skip
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(text)
    monkeypatch.setattr(sidecars, "LARGEST", 3000)
    plan = svc_dist.make_plan(recipe_data(models))
    copied = {sidecar.name for sidecar in plan.sidecars}
    assert copied == {
        "config.json", "modules.json", "1_Pooling/config.json", "2_Dense/config.json", "bpe.bpe", "modeling_x.py",
        "custom_generate/generate.py", "additional_chat_templates/tool_use.jinja",
        "LICENSE", "preprocessor_config.json",
    }  # fmt: skip
    reasons = {one.name: one.reason for one in plan.left_out}
    merged = {file.name for file in plan.models[0].files} | {"model.safetensors.index.json"}
    on_disk = {path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()}
    assert "loaders" in reasons["onnx/"]
    assert set(reasons) | copied | merged >= on_disk - {"onnx/model.onnx"}, "nothing is left out without a word"
    assert reasons["pytorch_model.bin"] == reasons["model.gguf"] == "weights that are not merged"
    assert reasons["trainer_state.json"] == "training state"
    assert reasons["notes.json"] == "not valid JSON"
    assert "larger than" in reasons["huge.spm"]
    assert len([line for line in plan.warnings if "huge.spm is not copied" in line]) == 1
    assert len(plan.warnings) == 1
    text = "\n".join(plan_lines(plan))
    assert f"sidecars from {base}: 1_Pooling/config.json, " in text
    assert f"not copied from {base} (weights that are not merged): " in text
    output = base.parent / "out"
    svc_dist.merge(recipe_data(models), output, executor="inline")
    for name in copied - {"config.json"}:
        assert (output / name).read_bytes() == (base / name).read_bytes()


def test_an_edited_config_is_a_changed_input_also_of_a_complete_merge(models: list[Path]) -> None:
    output = models[0].parent / "out"
    svc_dist.merge(recipe_data(models), output, executor="inline")
    config = models[0] / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(ChangedInputError, match=r"this changed:\n.*base/config\.json: was [0-9,]+ bytes"):
        svc_dist.merge(recipe_data(models), output, executor="inline")


def test_a_sidecar_that_changes_after_planning_is_not_published(models: list[Path]) -> None:
    write_tokenizer(models[0], TOKENS)
    plan = svc_dist.make_plan(recipe_data(models))
    planned = next(sidecar for sidecar in plan.sidecars if sidecar.name == "tokenizer.json")
    os.utime(models[0] / "tokenizer.json", ns=(1, 1))
    with pytest.raises(ChangedInputError, match=r"tokenizer\.json changed since the plan was made"):
        sidecars.content(planned, sidecars.open_storage(str(models[0])), None, None)


def test_verify_checks_the_files_beside_the_weights(models: list[Path]) -> None:
    write_tokenizer(models[0], TOKENS)
    output = models[0].parent / "out"
    svc_dist.merge(recipe_data(models), output, executor="inline")
    assert "3 sidecars with the recorded checksum" in verify(str(output)).checked
    (output / "tokenizer_config.json").write_text("{")
    (output / "tokenizer.json").unlink()
    problems = verify(str(output)).problems
    assert [problem.partition(" (")[0].partition(":")[0] for problem in problems] == [
        "tokenizer.json is missing",
        "tokenizer_config.json is not the file that was written",
        "tokenizer_config.json is not valid JSON",
    ]
