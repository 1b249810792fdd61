"""Rows of tokens: merged only where they are the same token in all models, and the base's where the recipe says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.errors import DamagedInputError, PlanError
from tests.plan.files.test_sidecars import write_tokenizer
from tests.support.adapters import config as adapter_config
from tests.support.adapters import write_adapter
from tests.support.checkpoints import recipe_data, write_checkpoint

WIDTH = 8
TOKENS = {f"t{number}": number for number in range(48)} | {"<s>": 48, "</s>": 49}
NAMES = ("model.embed_tokens.weight", "lm_head.weight")


def model(folder: Path, seed: int, tokens: dict[str, int] | None = None, rows: int = 64, **more: Tensor) -> Path:
    """A model of an embedding and a head with ``rows`` rows, of which ``tokens`` names some, and a norm."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(rows, WIDTH, generator=generator) for name in NAMES}
    config = {
        "vocab_size": rows, "hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 0,
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    }  # fmt: skip
    path = write_checkpoint(folder, {**tensors, "model.norm.weight": torch.ones(WIDTH), **more}, config=config)
    if tokens is not None:
        write_tokenizer(path, tokens)
    return path


def merged(models: list[Path], method: str = "task_arithmetic", **keys: Any) -> dict[str, Tensor]:
    output = models[0].parent / "out"
    svc_dist.merge(recipe_data(models, method, **keys), output, executor="inline")
    checked = verify(str(output), deep=True)
    assert checked.ok, checked.problems
    return tensors_of(output)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def refusal(models: list[Path], **keys: Any) -> PlanError:
    with pytest.raises(PlanError) as caught:
        svc_dist.make_plan(recipe_data(models, **keys))
    return caught.value


def reasons(models: list[Path], **keys: Any) -> dict[str, str]:
    plan = svc_dist.make_plan(recipe_data(models, **keys))
    return {tensor.name: plan.dispositions(tensor)[0].reason for tensor in plan.tensors}


def padded(folder: Path) -> list[Path]:
    """A base with padding rows, and experts that use one of them for different tokens."""
    extras: list[dict[str, int]] = [{}, {"<think>": 50}, {"<tool>": 50}]
    names = ("base", "one", "two")
    return [model(folder / name, n, TOKENS | extras[n]) for n, name in enumerate(names)]


def test_tokens_in_padding_rows_are_refused_by_name(tmp_path: Path) -> None:
    models = padded(tmp_path)
    error = refusal(models)
    assert error.message == (
        "the merge would add up rows of different tokens:\n"
        f"  the token '<think>' is number 50 in {models[1]}, but none in {models[0]}\n"
        f"  the token '<tool>' is number 50 in {models[2]}, but none in {models[0]}"
    )
    assert "`vocab: common`" in str(error.hint)
    kept = [{"match": ["*embed_tokens*", "lm_head*"], "keep": "base"}]
    svc_dist.make_plan(recipe_data(models, rules=kept))  # no row is merged


@pytest.mark.parametrize("choice", ["base", "common"])
def test_rows_of_the_bases_tokens_are_merged_and_its_padding_stays(choice: str, tmp_path: Path) -> None:
    models = padded(tmp_path)
    found = merged(models, vocab=choice)
    base, one, two = map(tensors_of, models)
    for name in NAMES:
        assert torch.equal(found[name][50:], base[name][50:])
        total = base[name] + (one[name] - base[name]) + (two[name] - base[name])
        assert torch.allclose(found[name][:50], total[:50], atol=1e-6)
    expected = f"the recipe, in its first 50 of 64 rows; the others are the base's (vocab: {choice})"
    assert reasons(models, vocab=choice)[NAMES[0]] == expected


def test_a_rule_decides_about_its_tensors_alone(tmp_path: Path) -> None:
    models = padded(tmp_path)
    rules = [{"match": "*embed_tokens*", "vocab": "common"}, {"match": "lm_head*", "keep": "base"}]
    assert "in its first 50 of 64 rows" in reasons(models, rules=rules)[NAMES[0]]
    assert "<think>" in refusal(models, rules=rules[:1]).message  # the head is not decided


@pytest.mark.parametrize("method", ["ties", "dare_linear", "breadcrumbs", "iso_c", "tsv_m", "model_stock"])
def test_methods_see_the_merged_rows_only(method: str, tmp_path: Path) -> None:
    """The same as a merge of models that have these rows alone."""
    models = padded(tmp_path / "whole")
    keys: dict[str, Any] = {"parameters": {"density": 0.5} if method in ("ties", "dare_linear") else {}}
    if method in ("iso_c", "tsv_m"):
        keys["embedding_patterns"] = []
    found = merged(models, method, vocab="common", **keys)
    short = []
    for folder in models:
        tensors = {name: t[:50] if name in NAMES else t for name, t in tensors_of(folder).items()}
        short.append(write_checkpoint(tmp_path / "short" / folder.name, tensors))
    expected = merged(short, method, **keys)
    base = tensors_of(models[0])
    for name in NAMES:
        assert torch.equal(found[name][:50], expected[name])
        assert torch.equal(found[name][50:], base[name][50:])


def test_fewer_rows_than_the_base_are_merged_as_common_rows(tmp_path: Path) -> None:
    tokens = {f"t{number}": number for number in range(58)}
    models = [model(tmp_path / "base", 0, tokens), model(tmp_path / "one", 1, tokens, rows=60)]
    error = refusal(models)
    assert "shape [64, 8] in the base, [60, 8] in" in error.message
    assert "`vocab: common` merges the rows that all models have" in error.message
    for choice in ("base", "common"):
        found, base, one = merged(models, vocab=choice), *map(tensors_of, models)
        for name in NAMES:
            assert torch.equal(found[name][60:], base[name][60:])
            assert torch.allclose(found[name][:60], one[name], atol=1e-6)
        shutil.rmtree(tmp_path / "out")


def test_some_experts_have_fewer_rows_and_some_more(tmp_path: Path) -> None:
    models = [model(tmp_path / str(rows), n, rows=rows) for n, rows in enumerate((64, 60, 70))]
    found = merged(models, "linear", vocab="common")
    base, a, b = map(tensors_of, models)
    for name in NAMES:
        assert found[name].shape == (64, WIDTH)
        assert torch.equal(found[name][60:], base[name][60:])
        assert torch.allclose(found[name][:60], (a[name] + b[name][:60]) / 2, atol=1e-6)


def test_a_reserved_token_that_an_expert_renamed_ends_the_common_rows(tmp_path: Path) -> None:
    tokens = {f"t{number}": number for number in range(40)} | {f"<reserved_{n}>": 40 + n for n in range(10)}
    renamed = {"<think>" if token == "<reserved_3>" else token: number for token, number in tokens.items()}
    models = [model(tmp_path / "base", 0, tokens), model(tmp_path / "one", 1, renamed)]
    error = refusal(models)
    assert "'<reserved_3>' is number 43 in" in error.message
    assert "(there 43 is '<think>')" in error.message
    assert "`vocab: common`" in str(error.hint)
    assert "in its first 43 of 64 rows" in reasons(models, vocab="common")[NAMES[1]]
    expected = (
        "the recipe, 64 rows by token (vocab: base): 49 that all models have, 1 from the base, 14 of no token, "
        "unmerged, the base's"
    )
    assert reasons(models, vocab="base")[NAMES[1]] == expected


@pytest.mark.parametrize("choice", ["error", "base", "common"])
def test_another_vocabulary_of_the_same_size_is_refused(choice: str, tmp_path: Path) -> None:
    other = {f"u{number}": number for number in range(50)}
    models = [model(tmp_path / "base", 0, TOKENS), model(tmp_path / "one", 1, other)]
    assert "the token 't0' is number 0 in" in refusal(models, vocab=choice).message


def test_the_same_tokens_are_merged_whatever_file_lists_them(tmp_path: Path) -> None:
    models = [model(tmp_path / "base", 0, TOKENS), model(tmp_path / "one", 1)]
    (models[1] / "vocab.json").write_text(json.dumps(TOKENS))
    assert reasons(models)[NAMES[0]] == "the recipe"
    assert reasons(models, vocab="common")[NAMES[0]] == "the recipe"
    (models[1] / "added_tokens.json").write_text(json.dumps({"<x>": 63}))
    assert "'<x>' is number 63" in refusal(models).message
    (models[1] / "added_tokens.json").write_text(json.dumps({"<x>": 64}))
    assert reasons(models)[NAMES[0]] == "the recipe"  # the embedding has no such row


def test_experts_are_compared_with_each_other_where_the_base_has_no_tokenizer(tmp_path: Path) -> None:
    models = padded(tmp_path)
    for file in models[0].glob("tokenizer*"):
        file.unlink()
    message = refusal(models).message
    assert "'<think>' is number 50 in" in message
    assert "(there 50 is '<tool>')" in message


def test_a_tokenizer_that_is_none_matters_only_where_another_is_compared_with_it(tmp_path: Path) -> None:
    models = [model(tmp_path / "base", 0), model(tmp_path / "one", 1)]
    (models[0] / "tokenizer.json").write_text('{"made": "up"}')
    for vocab in ("error", "common"):
        assert reasons(models, vocab=vocab)[NAMES[0]] == "the recipe"
    write_tokenizer(models[1], TOKENS)
    with pytest.raises(DamagedInputError, match=r"base/tokenizer\.json: not a tokenizer"):
        svc_dist.make_plan(recipe_data(models))


def test_a_head_of_an_unknown_name_is_known_by_its_rows(tmp_path: Path) -> None:
    odd = {"model.odd_output.weight": torch.ones(64, WIDTH)}
    models = [model(tmp_path / n, s, TOKENS | e, **odd) for n, s, e in (("base", 0, {}), ("one", 1, {"<x>": 50}))]
    rules = [{"match": ["*embed_tokens*", "lm_head*"], "keep": "base"}]
    assert "'<x>' is number 50" in refusal(models, rules=rules).message


def test_tokens_of_an_adapter_count_only_where_it_changes_the_rows(tmp_path: Path) -> None:
    base = model(tmp_path / "base", 0, TOKENS, **{"model.layers.0.mlp.up_proj.weight": torch.ones(WIDTH, WIDTH)})
    prefix = "base_model.model."
    factors = {
        f"{prefix}model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(2, WIDTH),
        f"{prefix}model.layers.0.mlp.up_proj.lora_B.weight": torch.ones(WIDTH, 2),
    }
    saved = {f"{prefix}model.embed_tokens.weight": torch.ones(64, WIDTH)}
    plain = write_adapter(tmp_path / "plain", factors, adapter_config(2, 2))
    trained = write_adapter(tmp_path / "trained", factors | saved, adapter_config(2, 2))
    for adapter in (plain, trained):
        write_tokenizer(adapter, TOKENS | {"<|PAD_TOKEN|>": 50})
    assert reasons([base, plain])[NAMES[0]] == "the recipe"
    assert "'<|PAD_TOKEN|>' is number 50 in" in refusal([base, trained]).message
    assert "in its first 50 of 64 rows" in reasons([base, trained], vocab="base")[NAMES[0]]


def test_the_tokenizer_of_an_expert_needs_its_rows_in_the_result(tmp_path: Path) -> None:
    models = padded(tmp_path)[:2]
    error = refusal(models, vocab="common", tokenizer_source="one")
    assert "has tokens like '<think>', of number 50" in error.message
    assert "'<think>'" in refusal(models, config_source="one").message


def test_rows_that_are_no_tokens_are_common_by_their_number(tmp_path: Path) -> None:
    more = [{"a.codebook.weight": torch.randn(rows, 6)} for rows in (16, 12)]
    models = [model(tmp_path / name, n, **more[n]) for n, name in enumerate(("base", "one"))]
    found = merged(models, vocab="common", rules=[{"match": "*.codebook.weight", "vocab": "common"}])
    base, one = more[0]["a.codebook.weight"], more[1]["a.codebook.weight"]
    assert torch.equal(found["a.codebook.weight"][12:], base[12:])
    assert torch.allclose(found["a.codebook.weight"][:12], one, atol=1e-6)
    assert "shape [16, 6] in the base" in refusal(models, vocab="common").message


def test_a_large_embedding_in_many_units_keeps_its_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from svc_dist.checkpoint import layout

    monkeypatch.setattr(layout, "MAX_RANGE", 4 * WIDTH * 7)
    monkeypatch.setattr(layout, "MIN_RANGE", 64)
    models = padded(tmp_path)
    plan = svc_dist.make_plan(recipe_data(models, vocab="common"))
    assert len(plan.units) > 10
    found, base = merged(models, vocab="common"), tensors_of(models[0])
    for name in NAMES:
        assert torch.equal(found[name][50:], base[name][50:])
        assert not torch.equal(found[name][49], base[name][49])


def test_a_union_is_the_vocabulary_of_the_model_that_has_all_tokens(tmp_path: Path) -> None:
    """Its rows beyond the common ones are its own, and so are config and tokenizer."""
    chat = {"<|im_start|>": 50, "<|im_end|>": 51}
    models = [
        model(tmp_path / "base", 0, TOKENS, rows=50),
        model(tmp_path / "one", 1, TOKENS | chat, rows=56),
        model(tmp_path / "two", 2, TOKENS | chat | {"<tool>": 52}, rows=54),
    ]
    assert "shape [50, 8] in the base" in refusal(models).message
    found = merged(models, vocab="union")
    base, one, two = map(tensors_of, models)
    for name in NAMES:
        assert found[name].shape == (54, WIDTH)
        assert torch.equal(found[name][52:], two[name][52:])
        assert torch.allclose(found[name][50:52], (one[name][50:52] + two[name][50:52]) / 2, atol=1e-6)
        total = base[name] + (one[name][:50] - base[name]) + (two[name][:50] - base[name])
        assert torch.allclose(found[name][:50], total, atol=1e-6)
    output = tmp_path / "out"
    assert json.loads((output / "config.json").read_text())["vocab_size"] == 54
    assert (output / "tokenizer.json").read_bytes() == (models[2] / "tokenizer.json").read_bytes()
    expected = (
        "the recipe, 54 rows by token (vocab: union): 50 that all models have, 2 the mean of the models that have "
        f"them, 1 from {models[2]}, 1 of no token, unmerged, those of {models[2]}"
    )
    assert reasons(models, vocab="union")[NAMES[0]] == expected


def test_a_union_of_padding_rows(tmp_path: Path) -> None:
    models = padded(tmp_path)[:2]
    found, one = merged(models, vocab="union"), tensors_of(models[1])
    for name in NAMES:
        assert torch.equal(found[name][50:], one[name][50:])
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (models[1] / "tokenizer.json").read_bytes()


def test_a_union_of_equal_vocabularies_is_a_plain_merge(tmp_path: Path) -> None:
    models = [model(tmp_path / name, n, TOKENS) for n, name in enumerate(("base", "one"))]
    assert reasons(models, vocab="union")[NAMES[0]] == "the recipe"
    models[1] = model(tmp_path / "short", 1, TOKENS, rows=60)
    assert reasons(models, vocab="union")[NAMES[0]].endswith("60 of 64 rows; the others are the base's (vocab: union)")


def test_tokens_that_share_a_row_get_a_row_each_in_a_union(tmp_path: Path) -> None:
    models = padded(tmp_path)
    found, (base, one, two) = merged(models, vocab="union"), map(tensors_of, models)
    written = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert [(entry["content"], entry["id"]) for entry in written["added_tokens"][-2:]] == [
        ("<think>", 50),
        ("<tool>", 51),
    ]
    for name in NAMES:
        assert found[name].shape == (64, WIDTH)
        assert torch.equal(found[name][50], one[name][50])
        assert torch.equal(found[name][51], two[name][50])
        assert torch.equal(found[name][52:], base[name][52:])


def test_a_union_needs_a_row_for_each_token(tmp_path: Path) -> None:
    models = [model(tmp_path / "base", 0, TOKENS), model(tmp_path / "one", 1, TOKENS | {"<x>": 60}, rows=55)]
    plan = svc_dist.make_plan(recipe_data(models, vocab="union"))
    assert {tensor.shape[0] for tensor in plan.tensors if tensor.name in NAMES} == {64}
    assert not any(tensor.rest for tensor in plan.tensors)


def test_kept_rows_that_are_not_those_of_the_tokenizer_are_warned_about(tmp_path: Path) -> None:
    models = [model(tmp_path / "base", 0, TOKENS), model(tmp_path / "one", 1, {f"u{n}": n for n in range(50)})]
    rules = [{"match": ["*embed_tokens*", "lm_head*"], "keep": "one"}]
    (warning,) = svc_dist.make_plan(recipe_data(models, rules=rules)).warnings
    assert f"of {models[1]} and the tokenizer of {models[0]} do not go together: the token 't0' is number 0" in warning
    assert "`tokenizer_source: " in warning
    assert not svc_dist.make_plan(recipe_data(models, rules=rules, tokenizer_source="one")).warnings
    rules = [{**rules[0], "keep": "base"}]
    (warning,) = svc_dist.make_plan(recipe_data(models, rules=rules, config_source="one")).warnings
    assert f"of {models[0]} and the tokenizer of {models[1]} do not go together" in warning


def test_rows_that_the_config_does_not_say_are_warned_about(tmp_path: Path) -> None:
    models = [model(tmp_path / "base", 0), model(tmp_path / "one", 1, rows=70)]
    rules = [{"match": ["*embed_tokens*", "lm_head*"], "keep": "one"}]
    first, second = svc_dist.make_plan(recipe_data(models, rules=rules)).warnings
    assert first.startswith("lm_head.weight has 70 rows in the result, but the config.json of")
    assert "`config_source`" in second
    assert not svc_dist.make_plan(recipe_data(models, rules=rules, config_source="one")).warnings
    merged(models, vocab="base", config_source="one")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 64
