"""Tied tensors are decided once: svc_dist.plan.tensors.tied_model and ties, by merges whose values are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svc_dist
from svc_dist.checks.verify import verify
from svc_dist.errors import DamagedInputError, PlanError, RecipeError
from svc_dist.plan.make import make_plan
from svc_dist.plan.model import Plan
from svc_dist.plan.settings import Settings
from svc_dist.recipe.load import load_recipe
from tests.support.adapters import PREFIX, config, lora, write_adapter
from tests.support.checkpoints import llama_config, llama_like, write_checkpoint, write_recipe

E, HEAD, Q = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj"
TIED, UNTIED = llama_config(tied=True), llama_config()


def weights(seed: int, head: str = "none") -> dict[str, Tensor]:
    """A tiny Llama without a stored head, with a copy of its embedding as its head, or with another one."""
    tensors = llama_like(seed, head=False)
    if head == "copy":
        tensors[HEAD] = tensors[E].clone()
    elif head == "own":
        tensors[HEAD] = tensors[E] + 0.5
    return tensors


class Merge:
    """Models in folders, and one merge of them with weights 0.5."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"

    def model(self, name: str, tensors: Mapping[str, Tensor], config: Any = TIED) -> Path:
        return write_checkpoint(self.folder / name, tensors, shards=1, config=config)

    def adapter(self, name: str, tensors: Mapping[str, Tensor], **keys: Any) -> Path:
        stored = {f"{PREFIX}{key}": tensor for key, tensor in tensors.items()}
        return write_adapter(self.folder / name, lora({Q: (16, 16)}) | stored, config(**keys))

    def recipe(self, *models: Path, **keys: Any) -> Path:
        return write_recipe(self.folder / "r.yaml", models, **({"parameters": {"weight": 0.5}} | keys))

    def plan(self, *models: Path, **keys: Any) -> Plan:
        return make_plan(load_recipe(self.recipe(*models, **keys)), Settings())

    def merged(self, *models: Path, **keys: Any) -> dict[str, Tensor]:
        svc_dist.merge(self.recipe(*models, **keys), self.out)
        assert verify(str(self.out), deep=True).problems == []
        return load_file(self.out / "model.safetensors")

    @property
    def config(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.out / "config.json").read_text())
        return data


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    return Merge(tmp_path)


def moved(one: Tensor, *others: Tensor) -> Tensor:
    """The base's tensor with half of each expert's delta."""
    total = one.float()
    for other in others:
        total = total + 0.5 * (other.float() - one.float())
    return total.to(one.dtype)


def test_a_head_that_a_tied_base_stores_is_written_equal_to_the_embedding(merge: Merge) -> None:
    models = merge.model("base", weights(0, "copy")), merge.model("a", weights(1)), merge.model("b", weights(2, "copy"))
    out = merge.merged(*models)
    assert torch.equal(out[E], moved(*(weights(seed)[E] for seed in range(3))))
    assert torch.equal(out[HEAD], out[E])
    plan = merge.plan(*models)
    head = next(tensor for tensor in plan.tensors if tensor.name == HEAD)
    assert (head.tied_to, plan.dispositions(head)[0].reason) == (E, f"written equal to {E}, to which it is tied")


def test_a_head_that_only_experts_store_is_left_out_where_it_is_a_copy(merge: Merge) -> None:
    models = merge.model("base", weights(0)), merge.model("a", weights(1, "copy"), UNTIED), merge.model("b", weights(2))
    out = merge.merged(*models)
    assert HEAD not in out
    assert torch.equal(out[E], moved(*(weights(seed)[E] for seed in range(3))))
    assert merge.plan(*models).not_written == ((HEAD, f"not stored, as in the base: it is {E}, to which it is tied"),)


def test_a_base_that_stores_the_head_alone_leads_with_it(merge: Merge) -> None:
    base = {HEAD if name == E else name: tensor for name, tensor in weights(0).items()}
    out = merge.merged(merge.model("base", base), merge.model("a", weights(1)))
    assert E not in out
    assert torch.equal(out[HEAD], moved(weights(0)[E], weights(1)[E]))


@pytest.mark.parametrize("method", ["dare_linear", "della_linear", "ties"])
def test_random_methods_draw_once_for_all_names_of_a_tensor(method: str, merge: Merge) -> None:
    keys: dict[str, Any] = {"method": method, "parameters": {"density": 0.5, "weight": 0.5}}
    models = merge.model("base", weights(0, "copy")), merge.model("a", weights(1, "copy"))
    out = merge.merged(*models, **keys)
    assert torch.equal(out[HEAD], out[E])
    merge.out = merge.folder / "again"
    alone = merge.merged(merge.model("base", weights(0)), merge.model("a", weights(1)), **keys)
    assert torch.equal(alone[E], out[E])


def test_an_untied_head_keeps_its_own_draws(merge: Merge) -> None:
    models = merge.model("base", weights(0, "copy"), UNTIED), merge.model("a", weights(1, "copy"), UNTIED)
    out = merge.merged(*models, method="dare_linear", parameters={"density": 0.5, "weight": 0.5})
    assert not torch.equal(out[HEAD], out[E])


def test_an_encoder_and_a_decoder_read_the_merged_embedding(merge: Merge) -> None:
    def t5(seed: int, *names: str) -> dict[str, Tensor]:
        tensors = weights(seed)
        embedding = tensors.pop(E)
        return tensors | {f"{name}.weight": embedding.clone() for name in names}

    base = merge.model("base", t5(0, "shared", "encoder.embed_tokens", "decoder.embed_tokens"), {"model_type": "t5"})
    experts = merge.model("a", t5(1, "shared"), None), merge.model("b", t5(2, "shared", "lm_head"), None)
    out = merge.merged(base, *experts)
    for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"):
        assert torch.equal(out[f"{name}.weight"], moved(*(weights(seed)[E] for seed in range(3))))
    with pytest.raises(PlanError, match="untie has no right result here"):
        merge.plan(base, *experts, untie=True)


def test_an_expert_whose_head_is_another_matrix_is_refused_and_untie_merges_it(merge: Merge) -> None:
    models = merge.model("base", weights(0)), merge.model("a", weights(1)), merge.model("b", weights(2, "own"), UNTIED)
    with pytest.raises(PlanError, match=r"lm_head\.weight: stored in .*/b as a matrix of its own, but tied") as caught:
        merge.plan(*models)
    assert caught.value.hint is not None
    assert "keep: base" not in caught.value.hint
    assert caught.value.hint.endswith("\n  untie: true")
    out = merge.merged(*models, untie=True)
    assert torch.equal(out[E], moved(*(weights(seed)[E] for seed in range(3))))
    assert torch.equal(out[HEAD], moved(weights(0)[E], weights(1)[E], weights(2, "own")[HEAD]))
    assert merge.config["tie_word_embeddings"] is False


def test_a_rule_can_leave_out_the_heads_that_the_base_does_not_have(merge: Merge) -> None:
    models = merge.model("base", weights(0)), merge.model("b", weights(2, "own"), UNTIED)
    out = merge.merged(*models, rules=[{"match": HEAD, "keep": "base"}])
    assert HEAD not in out


@pytest.mark.parametrize("number", [0, 1])
def test_a_config_that_ties_two_different_tensors_is_refused(number: int, merge: Merge) -> None:
    heads = ["copy", "copy"]
    heads[number] = "own"
    models = [merge.model(f"m{seed}", weights(seed, head)) for seed, head in enumerate(heads)]
    with pytest.raises(PlanError, match="untie: true"):
        merge.plan(*models)
    out = merge.merged(*models, untie=True)
    assert torch.equal(out[HEAD], moved(*(weights(seed, head)[HEAD] for seed, head in enumerate(heads))))
    assert merge.config["tie_word_embeddings"] is False


def test_a_copy_that_a_sample_takes_for_equal_is_compared_byte_by_byte(merge: Merge) -> None:
    shape = (4000, 64)
    tensors = [{E: torch.randn(shape, generator=torch.Generator().manual_seed(seed))} for seed in range(2)]
    other = tensors[1][E].clone()
    other[60] += 1  # between two ranges of the sample
    models = merge.model("base", tensors[0]), merge.model("a", tensors[1] | {HEAD: other})
    merge.plan(*models)
    with pytest.raises(DamagedInputError, match=r"/a: model\.embed_tokens\.weight and a tensor tied to it"):
        svc_dist.merge(merge.recipe(*models), merge.out)


@pytest.mark.parametrize("rule", [{"match": HEAD, "keep": "base"}, {"match": E, "merge_method": "linear"}])
def test_a_rule_decides_about_all_names_of_a_tensor_or_none(rule: dict[str, Any], merge: Merge) -> None:
    models = merge.model("base", weights(0, "copy")), merge.model("a", weights(1, "copy"))
    with pytest.raises(RecipeError, match="are one tensor"):
        merge.plan(*models, rules=[rule])
    out = merge.merged(*models, rules=[rule | {"match": [HEAD, E]}])
    assert torch.equal(out[HEAD], out[E])


def test_untie_is_refused_where_nothing_is_tied(merge: Merge) -> None:
    models = merge.model("base", weights(0, "own"), UNTIED), merge.model("a", weights(1, "own"), UNTIED)
    with pytest.raises(RecipeError, match="no model has a tied output head"):
        merge.plan(*models, untie=True)


@pytest.mark.parametrize("head", ["none", "own"])
def test_a_config_from_an_expert_says_what_the_result_is(head: str, merge: Merge) -> None:
    of_base, of_expert = (TIED, UNTIED) if head == "none" else (UNTIED, TIED)
    models = merge.model("base", weights(0, head), of_base), merge.model("a", weights(1, head), of_expert)
    merge.merged(*models, config_source="a")
    assert merge.config["tie_word_embeddings"] is of_base["tie_word_embeddings"]


@pytest.mark.parametrize("stored", ["none", "copy"])
def test_an_expert_s_head_beside_a_base_whose_config_does_not_say_is_declared(stored: str, merge: Merge) -> None:
    """Gemma's configs leave the key out, and loaders then tie: they would drop the head."""
    base = merge.model("base", weights(0, stored), {})
    expert = merge.model("expert", weights(1, "own"), UNTIED)
    out = merge.merged(base, expert, rules=[{"match": HEAD, "keep": "expert"}])
    assert torch.equal(out[HEAD], weights(1, "own")[HEAD])
    assert merge.config["tie_word_embeddings"] is False
    merge.out = merge.folder / "headless"
    out = merge.merged(base, expert, rules=[{"match": HEAD, "keep": "none"}])
    assert HEAD not in out
    assert merge.config == {}


# --- Adapters: what PEFT's merge makes of them ---------------------------------------------------------------------

LORA_E = {f"model.embed_tokens.lora_embedding_{side}": torch.full(shape, 0.1) for side, shape in
          (("A", (2, 40)), ("B", (16, 2)))}  # fmt: skip
LORA_HEAD = {f"lm_head.lora_{side}.weight": torch.full(shape, 0.1) for side, shape in (("A", (2, 16)), ("B", (40, 2)))}
DELTA = 2 * 2 * 0.1 * 0.1 * 0.5  # scale 2, rank 2, weight 0.5


def changed(tensor: Tensor, amount: float = DELTA) -> Tensor:
    return (tensor.float() + amount).to(tensor.dtype)


@pytest.mark.parametrize("stored", ["none", "copy"])
def test_lora_on_a_tied_embedding_changes_the_head_with_a_warning(stored: str, merge: Merge) -> None:
    base = merge.model("base", weights(0, stored), TIED | {"architectures": ["LlamaForCausalLM"]})
    adapter = merge.adapter("a", LORA_E | {"model.embed_tokens.base_layer.weight": weights(0)[E]})
    (warning,) = merge.plan(base, adapter).warnings
    assert "the head changes with it, as when PEFT merges the adapter" in warning
    out = merge.merged(base, adapter)
    assert torch.allclose(out[E], changed(weights(0)[E]))
    assert stored == "none" or torch.equal(out[HEAD], out[E])
    merge.out = merge.folder / "untied"
    out = merge.merged(base, adapter, untie=True)
    assert torch.allclose(out[E], changed(weights(0)[E]))
    assert torch.equal(out[HEAD], weights(0)[E])
    assert merge.config["tie_word_embeddings"] is False


@pytest.mark.parametrize("stored", ["none", "copy"])
def test_lora_on_a_tied_head_gives_the_result_a_head_of_its_own(stored: str, merge: Merge) -> None:
    base, adapter = merge.model("base", weights(0, stored)), merge.adapter("a", LORA_HEAD)
    assert "is LoRA on lm_head.weight" in merge.plan(base, adapter).warnings[0]
    out = merge.merged(base, adapter)
    assert torch.equal(out[E], weights(0)[E])
    assert torch.allclose(out[HEAD], changed(weights(0)[E]))
    assert merge.config["tie_word_embeddings"] is False


def test_an_adapter_trained_with_tied_weights_changes_the_tensor_once(merge: Merge) -> None:
    base = merge.model("base", weights(0, "copy"))
    adapter = merge.adapter("a", LORA_E | LORA_HEAD, ensure_weight_tying=True)
    out = merge.merged(base, adapter)
    assert torch.allclose(out[E], changed(weights(0)[E]))
    assert torch.equal(out[HEAD], out[E])
    assert merge.config["tie_word_embeddings"] is True


@pytest.mark.parametrize("stored", ["none", "copy"])
@pytest.mark.parametrize("saved", [[E], [HEAD], [E, HEAD]])
def test_a_saved_module_is_one_tensor_and_the_other_stays(saved: list[str], stored: str, merge: Merge) -> None:
    new = {name: weights(5 + number)[E] for number, name in enumerate(saved)}
    modules = [name.removesuffix(".weight").rpartition(".")[2] for name in saved]
    base, adapter = merge.model("base", weights(0, stored)), merge.adapter("a", new, modules_to_save=modules)
    assert "its config says tie_word_embeddings: false" in merge.plan(base, adapter).warnings[0]
    out = merge.merged(base, adapter, parameters={"weight": 1.0})
    for name in (E, HEAD):
        assert torch.allclose(out[name].float(), new.get(name, weights(0)[E]).float(), atol=2e-3)
    assert merge.config["tie_word_embeddings"] is False


def test_a_saved_module_that_is_equal_for_both_stays_tied(merge: Merge) -> None:
    new = {name: weights(5)[E] for name in (E, HEAD)}
    base = merge.model("base", weights(0))
    adapter = merge.adapter("a", new, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    out = merge.merged(base, adapter, parameters={"weight": 1.0})
    assert HEAD not in out
    assert torch.allclose(out[E].float(), weights(5)[E].float(), atol=2e-3)


def test_lora_on_one_of_two_embeddings_leaves_the_other_s_head_tied(merge: Merge) -> None:
    tensors = {f"{part}.{name}": one for part in ("talker", "thinker") for name, one in weights(0, "copy").items()}
    base = merge.model("base", tensors, {"tie_word_embeddings": True})
    adapter = write_adapter(merge.folder / "a", {f"{PREFIX}talker.{name}": one for name, one in LORA_E.items()})
    out = merge.merged(base, adapter)
    assert torch.allclose(out[f"talker.{HEAD}"], changed(weights(0)[E]))
    assert torch.equal(out[f"thinker.{HEAD}"], weights(0)[E])
    assert merge.config["tie_word_embeddings"] is True
