"""Adapters as results: PEFT loads them, and the base with them is the model that the same recipe merges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.recipe.adapters.extraction import extraction_recipe
from svc_dist.storage.open import open_storage
from tests.support.adapters import PREFIX, config, llama_modules, lora, write_adapter
from tests.support.checkpoints import write_llamas
from tests.support.s3_files import put_folder
from tests.support.s3_servers import Bucket
from tests.support.stopped import stop_merge


def recipe(base: Path, experts: list[Path], method: str = "task_arithmetic", **keys: Any) -> dict[str, Any]:
    return {"base_model": str(base), "models": [{"model": str(one)} for one in experts], "merge_method": method} | keys


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: one for file in sorted(folder.glob("*.safetensors")) for name, one in load_file(file).items()}


def tiny_llama(tied: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40}
    return LlamaForCausalLM(
        LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
    )


def tied_llama() -> Any:
    return tiny_llama(tied=True)


def tiny_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def tiny_mixture() -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**sizes, **heads, vocab_size=40, num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1)
    )


_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
#: By name: the base, the configurations of the adapters, and keys of the recipe.
CASES: dict[str, tuple[Callable[[], Any], list[dict[str, Any]], dict[str, Any]]] = {
    "other modules, scales and ranks": (
        tiny_llama,
        [
            {"r": 4, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj", "down_proj"], "use_rslora": True},
            {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "up_proj"], "rank_pattern": {"up_proj": 3},
             "alpha_pattern": {"q_proj": 5}},
            {"r": 2, "lora_alpha": 4, "target_modules": ["lm_head", "k_proj"], "modules_to_save": ["norm"]},
        ],
        {"parameters": {"weight": 0.4, "lambda": 0.9}},
    ),
    "calibrated": (
        tiny_llama,
        [{"r": 2, "target_modules": ["q_proj", "up_proj"]}, {"r": 1, "target_modules": "all-linear"}],
        {"calibrate": "svc"},
    ),
    "embeddings": (tiny_llama, [{"r": 2, "target_modules": ["embed_tokens", "q_proj"]}] * 2, {}),
    "tied embeddings": (tied_llama, [{"r": 2, "target_modules": ["embed_tokens", "q_proj"]}] * 2, {}),
    "saved embeddings": (
        tied_llama,
        [{"r": 2, "target_modules": ["embed_tokens", "q_proj"], "save_embedding_layers": "auto"}] * 2,
        {},
    ),
    "stored (in, out)": (
        tiny_gpt2,
        [{"r": 2, "target_modules": ["c_attn", "c_fc"]}, {"r": 1, "target_modules": ["c_attn"], "bias": "all"}],
        {},
    ),
    "experts of a mixture": (
        tiny_mixture,
        [
            {"r": 2, "target_modules": ["q_proj"], "target_parameters": _EXPERTS},
            {"r": 1, "target_modules": ["q_proj"], "target_parameters": _EXPERTS[1:]},
        ],
        {},
    ),
}  # fmt: skip


def trained(base: Path, folder: Path, seed: int, keys: dict[str, Any]) -> Path:
    """An adapter as PEFT saves it, with random factors."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    keys = {"save_embedding_layers": False} | keys
    saved = {"save_embedding_layers": keys.pop("save_embedding_layers")}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **keys))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, **saved)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_peft_loads_an_adapter_that_answers_as_the_merged_model(case: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    make, configurations, keys = CASES[case]
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "base")
    experts = [
        trained(tmp_path / "base", tmp_path / f"expert{number}", number, one)
        for number, one in enumerate(configurations)
    ]
    svc_dist.merge(recipe(tmp_path / "base", experts, **keys), tmp_path / "dense")
    svc_dist.merge(recipe(tmp_path / "base", experts, output="adapter", **keys), tmp_path / "adapter")
    assert not verify(str(tmp_path / "adapter"), deep=True).problems
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        plain = base(tokens).logits
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")(tokens).logits
        actual = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(tokens).logits
    assert (plain - expected).abs().max() > 1e-2
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


def test_a_stopped_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    base, *_ = write_llamas(tmp_path, experts=0, hidden=512, intermediate=1024)
    shapes = {f"model.layers.{n}.mlp.{name}": shape for n in range(2) for name, shape in
              (("up_proj", (1024, 512)), ("down_proj", (512, 1024)))}  # fmt: skip
    experts = [
        write_adapter(tmp_path / f"a{seed}", lora(shapes, rank=320, seed=seed), config(320, 1)) for seed in range(2)
    ]
    keys = recipe(base, experts, output="adapter", max_shard_size="1MB")
    svc_dist.merge(keys, tmp_path / "whole")
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(keys))
    stop_merge(path, tmp_path / "stopped", receipts=1)
    assert not (tmp_path / "stopped" / "adapter_config.json").exists()
    summary = svc_dist.merge(keys, tmp_path / "stopped")
    assert 0 < summary.units_resumed < summary.units
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_from_and_to_s3(tmp_path: Path, s3: Bucket) -> None:
    base, expert = write_llamas(tmp_path, experts=1)
    adapter = write_adapter(tmp_path / "adapter", lora(llama_modules()))
    keys = {"output": "adapter", "rank": 4}
    svc_dist.merge(recipe(base, [expert, adapter], **keys), tmp_path / "out")
    locations = [str(put_folder(s3, tmp_path / name, name)) for name in ("base", "expert0", "adapter")]
    data = {"base_model": locations[0], "models": [{"model": one} for one in locations[1:]]}
    svc_dist.merge(data | {"merge_method": "task_arithmetic"} | keys, f"{s3.url}/out")
    file = "adapter_model.safetensors"
    assert open_storage(f"{s3.url}/out").read(file) == (tmp_path / "out" / file).read_bytes()
    assert not verify(f"{s3.url}/out", deep=True).problems


@pytest.mark.slow
def test_on_ray(tmp_path: Path) -> None:
    base, expert = write_llamas(tmp_path, experts=1)
    keys = recipe(base, [expert], output="adapter", rank=4)
    svc_dist.merge(keys, tmp_path / "inline", executor="inline")
    svc_dist.merge(keys, tmp_path / "ray", executor="ray", slots=2)
    inline, ray = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("inline", "ray"))
    assert inline == ray


def test_several_adapters_in_one_pass(tmp_path: Path) -> None:
    base, *_ = write_llamas(tmp_path, experts=0)
    experts = [write_adapter(tmp_path / f"a{n}", lora(llama_modules(), seed=n)) for n in range(2)]
    outputs = [{"path": "weak", "lambda": 0.25}, {"path": "strong", "lambda": 1.0}]
    svc_dist.merge(recipe(base, experts, output="adapter", outputs=outputs), tmp_path / "out")
    weak, strong = (tensors(tmp_path / "out" / name) for name in ("weak", "strong"))
    name = f"{PREFIX}model.layers.0.self_attn.q_proj"
    torch.testing.assert_close(weak[f"{name}.lora_B.weight"], strong[f"{name}.lora_B.weight"] / 4)
    assert torch.equal(weak[f"{name}.lora_A.weight"], strong[f"{name}.lora_A.weight"])


@pytest.mark.parametrize("make", [tiny_llama, tied_llama, tiny_gpt2, tiny_mixture])
def test_an_extracted_adapter_of_full_rank_is_the_model(make: Callable[[], Any], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(("base", "tuned")):
        torch.manual_seed(seed)
        make().save_pretrained(tmp_path / name)
    svc_dist.merge(
        extraction_recipe(str(tmp_path / "base"), str(tmp_path / "tuned"), 16, untie=make is tiny_gpt2),
        tmp_path / "adapter",
    )
    assert not verify(str(tmp_path / "adapter"), deep=True).problems
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")(tokens).logits
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        actual = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(tokens).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rules", "task"),
    [
        ([], "SEQ_CLS"),
        ([{"match": "classifier.*", "keep": "base"}], None),
        ([{"match": "classifier.*.weight", "rank": 16}], None),
        ([{"match": "*", "rank": "full"}], "SEQ_CLS"),
    ],
    ids=["head trained", "head of the base", "head in factors", "no factors"],
)
def test_peft_loads_adapters_of_classifiers(rules: list[Any], task: str | None, tmp_path: Path) -> None:
    """PEFT's class for this task wraps the whole head, whose two layers lie in a module of their own."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 40}
    RobertaForSequenceClassification(RobertaConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path / "base")
    experts = []
    for number in range(2):
        base = RobertaForSequenceClassification.from_pretrained(tmp_path / "base")
        model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
        experts.append(tmp_path / f"expert{number}")
        model.save_pretrained(experts[-1])
    kept = [rule for rule in rules if "keep" in rule]
    svc_dist.merge(recipe(tmp_path / "base", experts, rules=kept), tmp_path / "dense")
    svc_dist.merge(recipe(tmp_path / "base", experts, output="adapter", rules=rules), tmp_path / "adapter")
    assert not verify(str(tmp_path / "adapter"), deep=True).problems
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == task
    base = RobertaForSequenceClassification.from_pretrained(tmp_path / "base")
    PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().save_pretrained(tmp_path / "loaded")
    expected = tensors(tmp_path / "dense")
    for name, tensor in tensors(tmp_path / "loaded").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
