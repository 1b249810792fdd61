"""State dicts merge to the bytes that a merge of files writes, and are refused with the same errors.

``svc_dist.run.memory.state_files`` serves the inputs, ``svc_dist.run.memory.tensor_sink`` takes the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.errors import DamagedInputError, PlanError, RecipeError
from svc_dist.methods.registry import METHODS
from tests.support.checkpoints import llama_config, llama_like, recipe_data, write_checkpoint

State = dict[str, Tensor]
CONFIG = llama_config()


def models(experts: int = 2, **options: Any) -> list[State]:
    """A base and experts, with tensors that are no weights."""
    states = [llama_like(seed, **options) for seed in range(experts + 1)]
    for state in states:
        state |= {"model.ids": torch.arange(7).view(1, 7), "model.mask": torch.tensor([True, False])}
    return states


def merged_files(folder: Path, states: list[State], recipe: Mapping[str, Any], config: Any = CONFIG) -> State:
    """The result of a merge of files."""
    names = ["base", *(f"expert{number}" for number in range(len(states) - 1))]
    places = [write_checkpoint(folder / name, state, config=config) for name, state in zip(names, states, strict=True)]
    svc_dist.merge(recipe_data(places) | dict(recipe), folder / "out", executor="inline", device="cpu")
    return load_file(folder / "out" / "model.safetensors")


def same(result: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> bool:
    return sorted(result) == sorted(written) and all(
        result[name].dtype == tensor.dtype
        and result[name].shape == tensor.shape
        and torch.equal(result[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
        for name, tensor in written.items()
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_bytes_of_files(tmp_path: Path, method: str) -> None:
    states = models(1 if METHODS[method].experts[1] == 1 else 2)
    names = ["base", *(f"expert{number}" for number in range(len(states) - 1))]
    places = [
        write_checkpoint(tmp_path / name, state, config=CONFIG) for name, state in zip(names, states, strict=True)
    ]
    outputs = [{"path": "plain", "calibrate": "none"}, {"path": "svc", "calibrate": {"method": "svc", "alpha": 0.5}}]
    recipe = recipe_data(places, method, outputs=outputs)
    svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    for output in outputs:
        result = svc_dist.merge_state_dicts(
            states[0], states[1:], method=method, calibrate=output["calibrate"], device="cpu", config=CONFIG
        )
        assert same(result, load_file(tmp_path / "out" / output["path"] / "model.safetensors")), output["path"]


RULES = [
    {"match": "*norm*", "keep": "base"},
    {"match": "*layers.0.mlp*", "keep": "expert1"},
    {"match": "*layers.1.self*", "merge_method": "dare_linear", "parameters": {"density": 0.5}, "calibrate": "svc"},
    {"match": "*embed_tokens*", "dtype": "float16"},
]  # fmt: skip


@pytest.mark.parametrize(
    "recipe",
    [
        {"merge_method": "task_arithmetic", "rules": RULES, "parameters": {"lambda": [0.2, 0.9]}, "dtype": "float32"},
        {"merge_method": "swudi", "fallback": {"method": "ties", "parameters": {"density": 0.5}}, "calibrate": "svc"},
        {"merge_method": "ties", "preset": "svc-paper", "max_shard_size": "4KB"},
        {"merge_method": "linear", "untie": True},
    ],
    ids=["rules", "fallback", "preset", "untie"],
)
def test_recipes_give_the_bytes_of_files(tmp_path: Path, recipe: dict[str, Any]) -> None:
    states, config = models(), CONFIG
    if recipe.get("untie"):
        config = llama_config(tied=True)
        del states[0]["lm_head.weight"]
    recipe = recipe | {"max_shard_size": "1GB"} if "max_shard_size" not in recipe else recipe
    written = merged_files(tmp_path, states, recipe | {"max_shard_size": "1GB"}, config)
    experts = {f"expert{number}": state for number, state in enumerate(states[1:])}
    assert same(svc_dist.merge_state_dicts(states[0], experts, recipe, config=config, device="cpu", slots=2), written)


def random_states(shapes: Mapping[str, tuple[int, ...]]) -> list[State]:
    drawn = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}
    deltas = [{name: torch.randn(one.shape, generator=drawn) / 9 for name, one in base.items()} for _ in range(2)]
    return [base, *({name: base[name] + one for name, one in delta.items()} for delta in deltas)]


def test_matrices_that_are_stored_turned(tmp_path: Path) -> None:
    layer = "transformer.h.0"
    states = random_states({f"{layer}.attn.c_attn.weight": (16, 48), f"{layer}.mlp.c_fc.weight": (16, 64)})
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    written = merged_files(tmp_path, states, {"merge_method": "swudi", "calibrate": "svc"}, config)
    keywords: dict[str, Any] = {"method": "swudi", "calibrate": "svc", "config": config, "device": "cpu"}
    assert same(svc_dist.merge_state_dicts(states[0], states[1:], **keywords), written)


def test_experts_of_a_mixture_that_are_stored_apart(tmp_path: Path) -> None:
    experts = "model.layers.0.mlp.experts"
    shapes = {f"{experts}.gate_up_proj": (4, 32, 16), f"{experts}.down_proj": (4, 16, 16)}
    states = random_states(shapes | {"model.layers.0.mlp.gate.weight": (4, 16)})
    both, down = states[1].pop(f"{experts}.gate_up_proj"), states[1].pop(f"{experts}.down_proj")
    for number in range(4):
        states[1][f"{experts}.{number}.gate_proj.weight"] = both[number, :16].clone()
        states[1][f"{experts}.{number}.up_proj.weight"] = both[number, 16:].clone()
        states[1][f"{experts}.{number}.down_proj.weight"] = down[number].clone()
    config = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
    written = merged_files(tmp_path, states, {"merge_method": "ties"}, config)
    assert same(svc_dist.merge_state_dicts(states[0], states[1:], method="ties", config=config, device="cpu"), written)


def test_rows_that_only_an_expert_has(tmp_path: Path) -> None:
    states = models()
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        states[1][name] = torch.cat([states[1][name], states[1][name][:3]])
    recipe = {"merge_method": "task_arithmetic", "vocab": "common"}
    written = merged_files(tmp_path, states, recipe)
    assert same(svc_dist.merge_state_dicts(states[0], states[1:], recipe, config=CONFIG, device="cpu"), written)
    with pytest.raises(PlanError, match="vocab: base"):
        svc_dist.merge_state_dicts(states[0], states[1:], method="ties", device="cpu")


def test_transposed_strided_and_shared_tensors(tmp_path: Path) -> None:
    states = models()
    written = merged_files(tmp_path, [{name: one.clone() for name, one in state.items()} for state in states], {})
    turned = [{name: one.T.contiguous().T if one.ndim == 2 else one for name, one in state.items()} for state in states]
    assert same(svc_dist.merge_state_dicts(turned[0], turned[1:], method="task_arithmetic", device="cpu"), written)
    for state in states:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    result = svc_dist.merge_state_dicts(states[0], states[1:], method="ties", device="cpu")
    assert result["lm_head.weight"].data_ptr() == result["model.embed_tokens.weight"].data_ptr()
    assert result["model.norm.weight"].data_ptr() != result["model.embed_tokens.weight"].data_ptr()


def test_a_recipe_names_the_experts_that_it_is_given(tmp_path: Path) -> None:
    base, math, code = models()
    (tmp_path / "r.yaml").write_text(
        "base_model: ./base\nmodels: [{model: some/code, parameters: {weight: 0.2}}, {model: x, name: math}]\n"
        "merge_method: task_arithmetic\nrules: [{match: '*norm*', keep: math}]\n"
    )
    result = svc_dist.merge_state_dicts(base, {"math": math, "code": code}, tmp_path / "r.yaml", device="cpu")
    rules = [{"match": "*norm*", "keep": "math"}]
    other = svc_dist.merge_state_dicts(
        base,
        {"code": code, "math": math},
        {"merge_method": "task_arithmetic", "rules": rules},
        changes={"models": [{"model": "dict://experts/code", "name": "code", "parameters": {"weight": 0.2}},
                            {"model": "dict://experts/math", "name": "math"}]},
        device="cpu",
    )  # fmt: skip
    assert same(result, other)
    assert torch.equal(result["model.norm.weight"], math["model.norm.weight"])
    keywords = {"method": "task_arithmetic", "weight": [0.2, 1.0], "lambda_": 1.0}
    assert not same(result, svc_dist.merge_state_dicts(base, [code, math], device="cpu", **keywords))


def test_without_a_base_and_with_the_base_listed() -> None:
    base, one, two = models()
    average = svc_dist.merge_state_dicts(None, [one, two], method="linear", device="cpu")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.allclose(average[name].float(), (one[name].float() + two[name].float()) / 2, atol=1e-2)
    recipe = {"models": [{"model": "base"}, {"model": "one"}, {"model": "two"}], "merge_method": "linear"}
    listed = svc_dist.merge_state_dicts(base, {"one": one, "two": two}, recipe, device="cpu")
    assert not same(listed, average)


def test_errors_are_those_of_files() -> None:
    base, one, two = models()
    merge = svc_dist.merge_state_dicts
    with pytest.raises(RecipeError, match="experts\\['one'\\]: x is of type int, but must be a tensor"):
        merge(base, {"one": one | {"x": 3}}, method="ties")  # type: ignore[dict-item]
    with pytest.raises(RecipeError, match="must be dense"):
        merge(base, {"one": one | {"x": torch.empty(3, device="meta")}}, method="ties")
    with pytest.raises(RecipeError, match="base has the name 3, but names must be text"):
        merge({3: torch.ones(2)}, {"one": one}, method="ties")  # type: ignore[dict-item]
    with pytest.raises(PlanError, match="dict://experts/one"):
        merge(base, {"one": one | {"model.norm.weight": torch.ones(3)}}, method="ties", device="cpu")
    one["model.norm.weight"] = torch.full_like(one["model.norm.weight"], torch.nan)
    with pytest.raises(DamagedInputError, match=r"dict://experts/one/model.safetensors: tensor 'model.norm.weight'"):
        merge(base, {"one": one, "two": two}, method="ties", device="cpu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "either a recipe or a method"),
        ({"recipe": {"merge_method": "ties"}, "method": "ties"}, "either a recipe or a method"),
        ({"recipe": {"merge_method": "ties"}, "weight": 1}, "either a recipe or a method"),
        ({"method": "tise"}, "tise"),
        ({"method": "ties", "weight": [1, 2, 3]}, "3 values of weight for 2"),
        ({"method": "ties", "lamda": 1}, "ties takes no parameter 'lamda'"),
        ({"recipe": {"merge_method": "ties", "outputs": {"lambda": [1, 2]}}}, "outputs.* makes one model"),
        ({"recipe": {"merge_method": "ties", "slices": []}}, "slices.* takes whole models"),
        ({"recipe": {"merge_method": "ties", "models": [{"model": "one"}]}}, "does not list the expert 'two'"),
        ({"recipe": {"merge_method": "ties", "models": [{"model": "oen"}]}}, "is called 'oen'\n.*did you mean 'one'"),
        ({"recipe": "nothing.yaml"}, "cannot read the recipe nothing.yaml"),
        ({"method": "ties", "slots": 0}, "slots"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    base, one, two = models()
    with pytest.raises(RecipeError, match=words):
        svc_dist.merge_state_dicts(base, {"one": one, "two": two}, **arguments)


def test_auto_looks_at_what_is_in_memory(tmp_path: Path) -> None:
    states = models()
    result = svc_dist.merge_state_dicts(states[0], states[1:], method="auto", config=CONFIG, device="cpu")
    assert same(result, merged_files(tmp_path, states, {"merge_method": "auto"}))
    with pytest.raises(RecipeError, match="auto chooses the parameters together with the merge method"):
        svc_dist.merge_state_dicts(states[0], states[1:], method="auto", weight=0.3)
