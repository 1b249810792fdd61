"""LoRA experts through the whole command: what PEFT makes of them, from any storage, and never more than is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import svc_dist
from svc_dist.errors import ChangedInputError
from svc_dist.methods.registry import METHODS
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from svc_dist.run.unit import run_unit
from svc_dist.storage.reading import Source
from svc_dist.storage.writing.local import LocalSink
from tests.support.adapters import PREFIX, config, llama_modules, lora, write_adapter
from tests.support.checkpoints import llama_config, llama_like, poke, write_checkpoint, write_recipe
from tests.support.command import Run, shard_hashes
from tests.support.s3_files import model_hashes, put_folder
from tests.support.s3_servers import Bucket

# --- Against PEFT --------------------------------------------------------------------------------------------------


def tiny_llama(**keys: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, **keys))


def tiny_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


ADAPTERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (tiny_llama, {"target_modules": ["q_proj", "v_proj", "down_proj"], "lora_alpha": 7}),
    "every linear layer, rsLoRA": (tiny_llama, {"target_modules": "all-linear", "use_rslora": True}),
    "patterns": (
        tiny_llama,
        {
            "target_modules": ["q_proj", "k_proj", "up_proj"],
            "rank_pattern": {"k_proj": 3, r"model\.layers\.1\..*up_proj": 5},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 2, "k_proj": 9},
        },
    ),
    "whole modules and biases": (
        lambda: tiny_llama(attention_bias=True),
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"], "bias": "all"},
    ),
    "biases of LoRA layers": (
        lambda: tiny_llama(attention_bias=True), {"target_modules": ["q_proj"], "bias": "lora_only"}
    ),
    "embeddings": (tiny_llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "the embedding of a tied head": (
        lambda: tiny_llama(tie_word_embeddings=True), {"target_modules": ["embed_tokens", "v_proj"]}
    ),
    "head": (tiny_llama, {"target_modules": ["lm_head", "o_proj"]}),
    "GPT-2's Conv1D": (
        tiny_gpt2, {"target_modules": ["c_attn", "c_proj", "wte"], "fan_in_fan_out": True, "lora_alpha": 3}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ADAPTERS)
def test_one_adapter_is_what_peft_merges(case: str, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    make, keys = ADAPTERS[case]
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "base")
    kind = type(make())
    adapted = get_peft_model(kind.from_pretrained(tmp_path / "base"), LoraConfig(r=4, **keys))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(tmp_path / "adapter")

    loaded = PeftModel.from_pretrained(kind.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    loaded.merge_and_unload().save_pretrained(tmp_path / "peft")
    expected = load_file(tmp_path / "peft" / "model.safetensors")
    base = load_file(tmp_path / "base" / "model.safetensors")
    svc_dist.merge(write_recipe(tmp_path / "r.yaml", [tmp_path / "base", tmp_path / "adapter"]), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged.keys() == expected.keys()
    changed = {name for name in merged if not torch.equal(merged[name], base[name])}
    assert changed == {name for name in merged if not torch.equal(expected[name], base[name])}
    assert changed
    for name, tensor in merged.items():
        assert torch.allclose(tensor, expected[name], rtol=1e-6, atol=1e-7), name


# --- Against the same experts, whole --------------------------------------------------------------------------------

MODULES = llama_modules(("q_proj", "k_proj", "v_proj", "down_proj"))


def on_a_grid(tensors: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """Values of few bits, so that products and sums of them are exact in float64."""
    return {name: (tensor.double() * steps).round() / steps for name, tensor in tensors.items()}


def applied(base: dict[str, Tensor], adapter: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The whole model of an adapter, in the base's dtype."""
    model = dict(base)
    for key, a in adapter.items():
        if key.endswith(".lora_A.weight"):
            b = adapter[key.replace("lora_A", "lora_B")]
            name = key.removeprefix(PREFIX).replace(".lora_A.", ".")
            model[name] = base[name] + scale * (b @ a)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """A base in float64, three adapters to it, and what each makes of it; adapters touch different modules."""
    folder = tmp_path_factory.mktemp("models")
    base = on_a_grid(llama_like(0, dtype=torch.float64, hidden=32, intermediate=48, layers=1), 256)
    shapes = {"model.layers.0.self_attn.q_proj": (32, 32), "model.layers.0.self_attn.k_proj": (16, 32)}
    shapes |= {"model.layers.0.mlp.down_proj": (32, 48), "model.layers.0.mlp.up_proj": (48, 32)}
    keys = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    made: dict[str, list[Path]] = {"adapters": [], "whole": []}
    for kind in made.values():
        kind.append(write_checkpoint(folder / "base", base, config=llama_config(**keys)))
    for seed, (rank, left_out) in enumerate([(2, ""), (4, "k_proj"), (3, "up_proj")]):
        modules = {name: shape for name, shape in shapes.items() if not left_out or not name.endswith(left_out)}
        adapter = on_a_grid(lora(modules, rank, seed, size=1.0), 16)
        alpha = rank * 2.0**-seed
        data = config(rank, alpha)
        made["adapters"].append(write_adapter(folder / f"adapter{seed}", adapter, data))
        made["whole"].append(write_checkpoint(folder / f"whole{seed}", applied(base, adapter, 2.0**-seed)))
    return made


METHOD_KEYS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name, method in METHODS.items() if method.experts[1] is None),
    *((name, {"calibrate": "svc"}) for name in ("task_arithmetic", "linear", "ties", "tsv_m", "iso_c", "swudi_a")),
    ("swudi", {"calibrate": {"method": "svc", "side": "right"}, "parameters": {"rank_ratio": 0.2}}),
    ("swudi", {"preset": "swudi-lora"}),
    ("task_arithmetic", {"calibrate": {"method": "svc", "alpha": 1.0}, "parameters": {"weight": 0.4}}),
]


@pytest.mark.parametrize(("method", "keys"), METHOD_KEYS, ids=lambda value: str(value))
def test_adapters_merge_as_the_whole_models_do(
    method: str, keys: dict[str, Any], models: dict[str, list[Path]], tmp_path: Path
) -> None:
    results = []
    for kind, paths in models.items():
        recipe = write_recipe(tmp_path / f"{kind}.yaml", paths, method, **keys)
        svc_dist.merge(recipe, tmp_path / kind, precision="float64")
        results.append(load_file(tmp_path / kind / "model.safetensors"))
    for name, tensor in results[0].items():
        assert torch.allclose(tensor, results[1][name], rtol=1e-8, atol=1e-9), name


def test_a_receipt_says_the_same(models: dict[str, list[Path]], tmp_path: Path) -> None:
    found = []
    for kind, paths in models.items():
        recipe = write_recipe(tmp_path / f"{kind}.yaml", paths, "tsv_m", calibrate="svc")
        svc_dist.merge(recipe, tmp_path / kind)
        report = json.loads((tmp_path / kind / "merge_report.json").read_text())
        found.append({(entry["tensor"], entry["matrix"]): set(entry) for entry in report["matrices"]})
    assert found[0] == found[1]
    assert len(found[0]) == 4


# --- A model of its own under an adapter ---------------------------------------------------------------------------


def test_model_plus_adapter(tmp_path: Path) -> None:
    base, model = llama_like(0, dtype=torch.float32), llama_like(1, dtype=torch.float32)
    paths = [write_checkpoint(tmp_path / name, tensors) for name, tensors in (("base", base), ("model", model))]
    adapter = lora(MODULES, size=0.3)
    write_adapter(tmp_path / "adapter", adapter)
    recipe = write_recipe(tmp_path / "r.yaml", [paths[0], "model+adapter"])  # from the recipe's folder
    svc_dist.merge(recipe, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, expected in applied(model, adapter, 2.0).items():
        assert torch.allclose(merged[name], expected, rtol=1e-6, atol=1e-7), name
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- `model+adapter`" in card
    assert str(tmp_path) not in card


def test_base_plus_adapter_is_the_adapter(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_like(0))
    adapter = write_adapter(tmp_path / "adapter", lora(MODULES))
    plus, alone = (
        planned(write_recipe(tmp_path / f"{n}.yaml", [base, location]))
        for n, location in enumerate([f"{base}+{adapter}", adapter])
    )
    assert plus.models == alone.models
    assert plus.tensors == alone.tensors


# --- Rules and names -----------------------------------------------------------------------------------------------


def test_tensors_kept_from_an_adapter_hold_what_it_adds(tmp_path: Path) -> None:
    base = llama_like(0, dtype=torch.float32)
    paths = [write_checkpoint(tmp_path / "base", base)]
    paths += [write_adapter(tmp_path / f"adapter{seed}", lora(MODULES, seed=seed, size=0.3)) for seed in range(2)]
    rules = [{"match": "*.layers.0.*", "keep": "adapter1"}]
    svc_dist.merge(write_recipe(tmp_path / "r.yaml", paths, rules=rules, dtype="float32"), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, expected in applied(base, lora(MODULES, seed=1, size=0.3), 2.0).items():
        if ".layers.0." in name:
            assert torch.allclose(merged[name], expected, rtol=1e-6, atol=1e-7), name


def test_an_adapter_to_tensors_of_other_names(tmp_path: Path) -> None:
    """As between versions of a library: `rename` puts its modules to the base's names."""
    base = write_checkpoint(tmp_path / "base", llama_like(0))
    moved = {name.replace("model.layers", "text.layers"): shape for name, shape in MODULES.items()}
    write_adapter(tmp_path / "moved", lora(moved))
    write_adapter(tmp_path / "plain", lora(MODULES))
    for name in ("moved", "plain"):
        keys = {"rename": {"from": "text.", "to": "model."}} if name == "moved" else {}
        svc_dist.merge(write_recipe(tmp_path / f"{name}.yaml", [base, tmp_path / name], **keys), tmp_path / f"o{name}")
    assert shard_hashes(tmp_path / "omoved") == shard_hashes(tmp_path / "oplain")


def test_a_vocabulary_that_grew_is_cut_to_the_bases(tmp_path: Path, run: Run) -> None:
    base = write_checkpoint(tmp_path / "base", llama_like(0, dtype=torch.float32))
    grown = torch.randn(43, 16)
    embedding = f"{PREFIX}model.embed_tokens."
    tensors = {f"{embedding}base_layer.weight": grown}
    tensors |= {f"{embedding}lora_embedding_A": torch.ones(2, 43), f"{embedding}lora_embedding_B": torch.ones(16, 2)}
    write_adapter(tmp_path / "adapter", tensors)
    refused = run("plan", write_recipe(tmp_path / "r.yaml", [base, tmp_path / "adapter"]))
    assert refused.code == 2
    assert "vocab: base" in refused.err
    svc_dist.merge(write_recipe(tmp_path / "r.yaml", [base, tmp_path / "adapter"], vocab="base"), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.allclose(merged, grown[:40] + 4, rtol=1e-6, atol=1e-6)


def test_looking_at_adapters_before_a_merge(models: dict[str, list[Path]], tmp_path: Path) -> None:
    found = [svc_dist.inspect(write_recipe(tmp_path / f"{kind}.yaml", models[kind])) for kind in models]
    keys = [{(entry["tensor"], entry["matrix"]) for entry in report.matrices} for report in found]
    assert keys[0] == keys[1]
    for one, other in zip(*(report.matrices for report in found), strict=True):
        assert one["gamma_by_energy"] == pytest.approx(other["gamma_by_energy"], rel=1e-4)


# --- The plan ------------------------------------------------------------------------------------------------------


def planned(recipe: Path, precision: str = "mixed") -> Plan:
    return make_plan(load_recipe(recipe), Settings(precision))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    base = write_checkpoint(tmp_path / "base", llama_like(0), config=llama_config())
    adapters = [write_adapter(tmp_path / f"adapter{seed}", lora(MODULES, seed=seed)) for seed in range(2)]
    return write_recipe(tmp_path / "r.yaml", [base, *adapters], "tsv_m", calibrate="svc")


def test_a_plan_reads_the_factors_and_nothing_more(recipe: Path) -> None:
    plan = planned(recipe)
    assert Plan.from_json(plan.to_json()) == plan
    whole = sum(tensor.end - tensor.start for tensor in plan.tensors)  # of the base, as wide as it is written
    factors = sum(4 * 2 * (rows + columns) for rows, columns in MODULES.values())
    assert plan.bytes_in == whole + 2 * factors


def test_the_factored_form_is_planned_for_what_it_costs(tmp_path: Path) -> None:
    shapes = {"model.layers.0.self_attn.q_proj.weight": (2048, 2048)}
    base = write_checkpoint(tmp_path / "base", {name: torch.zeros(shape) for name, shape in shapes.items()}, shards=1)
    adapters = [
        write_adapter(tmp_path / f"a{seed}", lora({"model.layers.0.self_attn.q_proj": (2048, 2048)}, seed=seed))
        for seed in range(2)
    ]
    whole = [write_checkpoint(tmp_path / f"m{n}", {name: torch.ones(s) for name, s in shapes.items()}) for n in (0, 1)]
    low, dense = (
        planned(write_recipe(tmp_path / f"{len(experts)}{experts[0].name}.yaml", [base, *experts], "tsv_m")).units[0]
        for experts in (adapters, whole)
    )
    assert low.flops < dense.flops / 100
    assert low.memory < dense.memory / 3


def test_a_huge_tensor_is_merged_by_rows_of_the_factor(tmp_path: Path) -> None:
    """64 MiB and more: several units, each of which reads its rows of B and all of A."""
    rows, columns = 6000, 8192
    base = {"model.layers.0.mlp.up_proj.weight": torch.zeros(rows, columns)}
    adapter = lora({"model.layers.0.mlp.up_proj": (rows, columns)}, rank=2)
    paths = [write_checkpoint(tmp_path / "base", base), write_adapter(tmp_path / "adapter", adapter)]
    recipe = write_recipe(tmp_path / "r.yaml", paths, dtype="bfloat16")
    plan = planned(recipe)
    assert len(plan.units) > 1
    for unit in plan.units:
        (_, first, last) = unit.pieces[0]
        assert unit.bytes_in == 4 * (last - first) + 4 * 2 * ((last - first) // columns + columns)
    svc_dist.merge(recipe, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    a, b = (adapter[f"{PREFIX}model.layers.0.mlp.up_proj.lora_{side}.weight"] for side in "AB")
    for start in range(0, rows, 1500):
        expected = (2 * b[start : start + 1500] @ a).bfloat16()
        assert float((merged[start : start + 1500] != expected).double().mean()) < 1e-3  # rounding at a tie


def test_another_scale_is_another_merge(recipe: Path, tmp_path: Path) -> None:
    before = planned(recipe).fingerprint
    write_adapter(tmp_path / "adapter1", lora(MODULES, seed=1), config(alpha=5))
    assert planned(recipe).fingerprint != before


def test_a_factor_that_changes_under_way_ends_the_run(recipe: Path, tmp_path: Path) -> None:
    plan = planned(recipe)
    write_adapter(tmp_path / "adapter1", lora(MODULES, seed=7))
    sink = LocalSink(tmp_path / "out", tmp_path / "partial")
    sink.prepare(plan.shards)
    with pytest.raises(ChangedInputError, match=r"adapter1/adapter_model\.safetensors"):
        run_unit(plan, plan.units[0], [Source(item.location, item.files) for item in plan.inputs], sink)


# --- The command ---------------------------------------------------------------------------------------------------


def test_the_command_and_its_neighbours(recipe: Path, tmp_path: Path, run: Run) -> None:
    assert run("plan", recipe).code == 0
    doctor = run("doctor", recipe, tmp_path / "out")
    assert doctor.code == 0, doctor.out + doctor.err
    assert "an adapter of 8 matrices" in doctor.out
    assert run("merge", recipe, tmp_path / "out").code == 0
    assert run("verify", tmp_path / "out", "--deep").code == 0
    assert run("merge", recipe, tmp_path / "out").code == 0, "done already"


@pytest.mark.parametrize("s3", ["moto"], indirect=True)
def test_adapters_on_s3(recipe: Path, tmp_path: Path, s3: Bucket) -> None:
    svc_dist.merge(recipe, tmp_path / "out")
    locations = [put_folder(s3, tmp_path / name, name) for name in ("base", "adapter0", "adapter1")]
    remote = write_recipe(
        tmp_path / "remote.yaml", [locations[0], locations[1], f"{locations[0]}+{locations[2]}"], "tsv_m",
        calibrate="svc",
    )  # fmt: skip
    svc_dist.merge(remote, f"{s3.url}/out")
    assert model_hashes(s3, "out") == shard_hashes(tmp_path / "out")


# --- What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "calibrate"),
    [("task_arithmetic", "none"), ("task_arithmetic", "svc"), ("iso_c", "none"), ("ties", "none")],
)
@pytest.mark.parametrize("side", ["A", "B"])
def test_a_nan_in_a_factor_is_told_by_its_file(
    side: str, method: str, calibrate: str, tmp_path: Path, run: Run
) -> None:
    base = write_checkpoint(tmp_path / "base", llama_like(0))
    adapters = [write_adapter(tmp_path / f"adapter{seed}", lora(MODULES, seed=seed)) for seed in range(2)]
    key = f"{PREFIX}model.layers.1.self_attn.v_proj.lora_{side}.weight"
    poke(adapters[1] / "adapter_model.safetensors", key, 5, math.nan)
    ended = run(
        "merge", write_recipe(tmp_path / "r.yaml", [base, *adapters], method, calibrate=calibrate), tmp_path / "out"
    )
    assert ended.code == 3, ended.err
    assert f"{adapters[1]}/adapter_model.safetensors: lora_{side} of tensor" in ended.err
    assert "'model.layers.1.self_attn.v_proj.weight' holds nan at element 5 of shape" in ended.err


def test_what_an_adapter_has_and_the_base_has_not_takes_a_rule(tmp_path: Path, run: Run) -> None:
    base = write_checkpoint(tmp_path / "base", llama_like(0))
    adapter = lora(MODULES) | {f"{PREFIX}score.weight": torch.ones(3, 16)}
    write_adapter(tmp_path / "adapter", adapter)
    ended = run("plan", write_recipe(tmp_path / "r.yaml", [base, tmp_path / "adapter"]))
    assert ended.code == 2
    assert f"score.weight: in {tmp_path}/adapter, but not in the base" in ended.err
    rules = [{"match": "score.weight", "keep": "base"}]
    assert run("plan", write_recipe(tmp_path / "r.yaml", [base, tmp_path / "adapter"], rules=rules)).code == 0


def test_an_adapter_needs_a_base(tmp_path: Path, run: Run) -> None:
    model = write_checkpoint(tmp_path / "model", llama_like(0))
    adapter = write_adapter(tmp_path / "adapter", lora(MODULES))
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps({"models": [{"model": str(model)}, {"model": str(adapter)}], "merge_method": "linear"}))
    ended = run("plan", file)
    assert ended.code == 2
    assert "base_model is missing" in ended.err


def test_an_adapter_has_no_config_but_may_have_a_tokenizer(tmp_path: Path, run: Run) -> None:
    base = write_checkpoint(tmp_path / "base", llama_like(0), config=llama_config())
    write_adapter(tmp_path / "adapter", lora(MODULES))
    for folder, text in ((base, "base"), (tmp_path / "adapter", "adapter")):
        (folder / "tokenizer_config.json").write_text(json.dumps({"name": text}))
    file = tmp_path / "r.yaml"
    ended = run("plan", write_recipe(file, [base, tmp_path / "adapter"], config_source="adapter"))
    assert ended.code == 2
    assert "has no config.json (an adapter has none)" in ended.err
    rules = [{"match": ["*embed_tokens*", "lm_head*"], "keep": "base"}]
    write_recipe(file, [base, tmp_path / "adapter"], tokenizer_source=str(tmp_path / "adapter"), rules=rules)
    svc_dist.merge(file, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == {"name": "adapter"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_a_truncated_adapter(recipe: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "adapter0" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    ended = run("merge", recipe, tmp_path / "out")
    assert ended.code == 3
    assert f"{file}: the data is truncated" in ended.err
    save_file({}, file)
    ended = run("merge", recipe, tmp_path / "out")
    assert ended.code == 3
    assert "holds no tensor" in ended.err
