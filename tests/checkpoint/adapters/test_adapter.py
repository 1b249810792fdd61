"""What an adapter adds to which tensor, from headers; every key and tensor accounted for, or refused by name.

Of svc_dist.checkpoint.adapters.adapter, svc_dist.checkpoint.adapters.tensors and svc_dist.checkpoint.adapters.factors.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from svc_dist.checkpoint.adapters.adapter import Expert, attach, open_adapter, open_expert, split_location
from svc_dist.checkpoint.checkpoint import Checkpoint, open_checkpoint
from svc_dist.errors import DamagedInputError, PlanError, RecipeError
from tests.support.adapters import PREFIX, config, llama_modules, lora, write_adapter
from tests.support.checkpoints import llama_config, llama_like, write_checkpoint

MODULE = "model.layers.0.self_attn.q_proj"
K_PROJ = "model.layers.1.self_attn.k_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(write_checkpoint(tmp_path_factory.mktemp("base"), llama_like(0), config=llama_config())))


def attached(folder: Path, base: Checkpoint) -> Expert:
    return attach(open_expert(str(folder)), base)


def test_a_pair_is_found_by_its_module(tmp_path: Path, base: Checkpoint) -> None:
    expert = attached(write_adapter(tmp_path / "a", lora({MODULE: (16, 16)})), base)
    (factors,) = expert.factors[MODULE + ".weight"]
    assert (factors.b.shape, factors.a.shape, factors.scale, factors.transposed) == ((16, 2), (2, 16), 2, False)
    assert factors.b.name == f"{PREFIX}{MODULE}.lora_B.weight"
    assert list(expert.factors) == [MODULE + ".weight"]
    assert expert.whole.tensors == base.tensors, "as if whole: what it does not touch is the base's"


def test_its_files_say_who_it_is(tmp_path: Path) -> None:
    adapter = open_adapter(str(write_adapter(tmp_path / "a", lora({MODULE: (16, 16)}))))
    assert [file.name for file in adapter.files] == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4 / math.sqrt(2)),
        ({"alpha_pattern": {"k_proj": 3}}, 1.5),
        ({"alpha_pattern": {K_PROJ: 3, "k_proj": 5}}, 1.5),
        ({"alpha_pattern": {r"model\.layers\.[01]\.self_attn\.(k|v)_proj": 5}}, 2.5),
        ({"alpha_pattern": {"proj": 3, "self_attn": 7, "layers.1": 9}}, 2.0),
        ({"alpha_pattern": {"k_proj": 3}, "use_rslora": True}, 3 / math.sqrt(2)),
        ({"r": 16, "rank_pattern": {"k_proj": 2}}, 2.0),
    ],
)
def test_the_scale_of_a_module(keys: dict[str, Any], scale: float, tmp_path: Path, base: Checkpoint) -> None:
    expert = attached(write_adapter(tmp_path / "a", lora({K_PROJ: (8, 16)}), config(**keys)), base)
    assert expert.factors[K_PROJ + ".weight"][0].scale == pytest.approx(scale)


def test_whole_tensors_take_the_place_of_the_bases(tmp_path: Path, base: Checkpoint) -> None:
    tensors = {f"{PREFIX}lm_head.weight": torch.ones(40, 16)}
    tensors[f"{PREFIX}model.embed_tokens.base_layer.weight"] = torch.ones(40, 16)
    tensors[f"{PREFIX}model.norm.modules_to_save.weight"] = torch.ones(16)
    expert = attached(write_adapter(tmp_path / "a", tensors), base)
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        spec = expert.saved(name)
        assert spec is not None
        assert expert.whole.tensors[name] is spec
        assert spec.dtype == "F32"
    assert expert.saved(MODULE + ".weight") is None


def test_an_embedding_is_stored_the_other_way_round(tmp_path: Path, base: Checkpoint) -> None:
    tensors = {f"{PREFIX}model.embed_tokens.lora_embedding_A": torch.ones(2, 40)}
    tensors[f"{PREFIX}model.embed_tokens.lora_embedding_B"] = torch.ones(16, 2)
    (factors,) = attached(write_adapter(tmp_path / "a", tensors), base).factors["model.embed_tokens.weight"]
    assert (factors.a.shape, factors.b.shape, factors.transposed) == ((2, 40), (16, 2), True)


@pytest.mark.parametrize(("flag", "name"), [(False, "wide"), (True, "wide"), (True, "square")])
def test_a_weight_that_lies_the_other_way_round(flag: bool, name: str, tmp_path: Path) -> None:
    """GPT-2's Conv1D: ``(in_features, out_features)``. The flag decides only where the shape does not."""
    weights = {"wide.weight": torch.ones(4, 12), "square.weight": torch.ones(4, 4), "plain.weight": torch.ones(12, 4)}
    base = open_checkpoint(str(write_checkpoint(tmp_path / "base", weights)))
    modules = {"wide": (12, 4), "square": (4, 4), "plain": (12, 4)}
    expert = attached(write_adapter(tmp_path / "a", lora(modules), config(fan_in_fan_out=flag)), base)
    assert expert.factors[f"{name}.weight"][0].transposed
    assert not expert.factors["plain.weight"][0].transposed
    assert expert.factors["square.weight"][0].transposed == flag


def test_a_model_of_its_own_under_the_adapter(tmp_path: Path, base: Checkpoint) -> None:
    model = write_checkpoint(tmp_path / "model", llama_like(1), config=llama_config())
    folder = write_adapter(tmp_path / "a", lora({MODULE: (16, 16)}))
    expert = attach(open_expert(f"{model}+{folder}"), base)
    assert expert.model is not None
    assert expert.model.location == str(model)
    assert expert.whole.tensors["lm_head.weight"] == expert.model.tensors["lm_head.weight"]
    assert list(expert.factors) == [MODULE + ".weight"]


def test_a_plus_in_the_name_of_a_folder_is_no_adapter(tmp_path: Path) -> None:
    folder = tmp_path / "c++"
    folder.mkdir()
    assert split_location(str(folder)) == (str(folder), None)
    assert split_location("s3://b/model+s3://b/adapter") == ("s3://b/model", "s3://b/adapter")
    with pytest.raises(RecipeError, match=r"one \+"):
        split_location(f"{folder}/model+/adapter")


# --- What is refused -----------------------------------------------------------------------------------------------

PAIR = lora({MODULE: (16, 16)})
A, B = f"{PREFIX}{MODULE}.lora_A.weight", f"{PREFIX}{MODULE}.lora_B.weight"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({A: None}, rf"adapter_model.safetensors: tensor '{B}' has no partner: lora_A is missing"),
        ({B: None}, rf"tensor '{A}' has no partner: lora_B is missing"),
        ({A: torch.ones(3, 16)}, r"has rank 3, but adapter_config.json says 2"),
        ({B: torch.ones(16, 3)}, r"has rank 3, but adapter_config.json says 2"),
        ({A: torch.ones(2, 16, 1, 1)}, r"are no factors of a matrix or a convolution"),
        ({A: torch.ones(2, 16, dtype=torch.int8)}, r"has dtype I8"),
        ({f"{PREFIX}{MODULE}.lora_magnitude_vector": torch.ones(16)}, r"lora_magnitude_vector.*no plain LoRA layer"),
        ({f"{PREFIX}{MODULE}.lora_B.bias": torch.ones(16)}, r"lora_B.bias' belongs to no plain LoRA layer"),
        (
            {f"{PREFIX}{MODULE}.lora_A.other.weight": torch.ones(2, 16)},
            r"more than one adapter: .*A.other.weight'",
        ),
        ({A: torch.zeros(0), B: torch.zeros(0)}, r"is empty: DeepSpeed ZeRO-3"),
        ({f"{MODULE}.weight": torch.ones(16, 16)}, r"does not begin with 'base_model.model.'"),
        ({f"{PREFIX}x.weight": torch.ones(1), f"{PREFIX}x.base_layer.weight": torch.ones(1)}, r"is there twice"),
    ],
)
def test_tensors_that_are_not_understood(changed: dict[str, Tensor | None], said: str, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in {**PAIR, **changed}.items() if tensor is not None}
    with pytest.raises(DamagedInputError, match=said):
        open_adapter(str(write_adapter(tmp_path / "a", tensors)))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; of adapters only LORA is read"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": "yes"}, "use_dora is 'yes', but must be true or false"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"target_parameters": "experts.up"}, "target_parameters is 'experts.up', but must be a list of names"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices is set"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"some_new_kind": {"x": 1}}, "some_new_kind is set, and it is not known what that changes"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"r": 0}, "r is 0, but a rank is a whole number above 0"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": None}, "lora_alpha is None, but must be a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes', but must be true or false"),
        ({"rank_pattern": [2]}, "rank_pattern is not a mapping"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern, 'q_proj' is -1"),
        ({"alpha_pattern": {"q(": 1}}, r"alpha_pattern: 'q(' is not a regular expression"),
        ({"alpha_pattern": {"(.*)*x": 1}}, r"repeats a group"),
        ({"alpha_pattern": {"a?" * 40 + "a" * 40: 1}}, r"too intricate"),
    ],
)
def test_configurations_that_mean_something_else(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", PAIR, config(**keys))
    with pytest.raises(DamagedInputError, match=re.escape(f"{folder}/adapter_config.json: ") + ".*" + re.escape(said)):
        open_adapter(str(folder))


def test_what_is_refused_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DamagedInputError, match="merge_and_unload"):
        open_adapter(str(write_adapter(tmp_path / "a", PAIR, config(lora_bias=True))))


def test_a_configuration_that_is_no_json(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", PAIR)
    for text, said in ((b"\xff", "not valid JSON"), (b"[1]", "not a JSON object"), (b'{"r":1,"r":2}', "twice")):
        (folder / "adapter_config.json").write_bytes(text)
        with pytest.raises(DamagedInputError, match=said):
            open_adapter(str(folder))


def test_a_pickled_adapter_is_not_read(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", PAIR)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(DamagedInputError, match="reading a pickle can run any code"):
        open_expert(str(folder))


def test_of_a_model_beside_an_adapter_the_recipe_says_which_is_meant(tmp_path: Path, base: Checkpoint) -> None:
    folder = write_adapter(tmp_path / "a", PAIR)
    write_checkpoint(folder, llama_like(0), shards=1)
    with pytest.raises(DamagedInputError, match=r"holds a model .* and an adapter .*: which is meant") as caught:
        open_expert(str(folder))
    assert "`use: model` or `use: adapter`" in str(caught.value.hint)
    model, adapter = open_expert(str(folder), use="model"), open_expert(str(folder), use="adapter")
    assert (model.adapter, adapter.model) == (None, None)
    assert model.model is not None
    assert model.model.tensors.keys() == base.tensors.keys()
    assert adapter.adapter is not None
    assert list(adapter.adapter.pairs) == [MODULE + ".weight"]
    assert open_checkpoint(str(folder)).tensors == model.model.tensors, "a base is a model"
    both = open_expert(f"{folder}+{folder}")
    assert both.model is not None
    assert both.adapter is not None


def test_what_use_asks_for_must_be_there(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", PAIR)
    with pytest.raises(DamagedInputError, match="here a whole model is wanted"):
        open_expert(str(folder), use="model")
    model = write_checkpoint(tmp_path / "m", llama_like(0))
    with pytest.raises(DamagedInputError, match=r"no adapter: adapter_config.json is missing"):
        open_expert(str(model), use="adapter")


def test_shards_of_an_adapter(tmp_path: Path, base: Checkpoint) -> None:
    folder = write_adapter(tmp_path / "a", {})
    (folder / "adapter_model.safetensors").unlink()
    for number, name in enumerate((A, B), 1):
        save_file({name: PAIR[name].contiguous()}, folder / f"adapter_model-0000{number}-of-00002.safetensors")
    (folder / "adapter_model.safetensors.index.json").write_text("{}")
    assert list(attached(folder, base).factors) == [MODULE + ".weight"]
    (folder / "adapter_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DamagedInputError, match=r"00002-of-00002.safetensors is missing, one of 2 shards"):
        open_expert(str(folder))


def test_an_adapter_of_mlx_is_named(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", PAIR, {"fine_tune_type": "lora"})
    (folder / "adapter_model.safetensors").rename(folder / "adapters.safetensors")
    with pytest.raises(DamagedInputError, match="an adapter of MLX"):
        open_expert(str(folder))


@pytest.mark.parametrize(
    "names",
    [
        [A, B],
        ["transformer.blocks.0.to_q.lora_A.weight", "transformer.blocks.0.to_q.lora_B.weight"],
        ["lora_unet_mid_block_q.lora_down.weight", "lora_unet_mid_block_q.alpha"],
    ],
)
def test_factors_without_a_configuration_are_no_model(names: list[str], tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", {name: torch.ones(2, 2) for name in names})
    (folder / "adapter_config.json").unlink()
    with pytest.raises(DamagedInputError, match=r"holds only factors of LoRA .* no adapter_config.json says"):
        open_expert(str(folder))


def test_a_model_with_factors_of_its_own(tmp_path: Path) -> None:
    """Phi-4-multimodal."""
    own = {"x.base_layer.weight": torch.ones(2, 2), "x.lora_A.speech.weight": torch.ones(2, 2)}
    assert open_expert(str(write_checkpoint(tmp_path / "m", own))).model is not None


def test_experts_in_mxfp4_are_named(tmp_path: Path) -> None:
    packed = {f"{EXPERTS}.gate_up_proj_blocks": torch.ones(3, 4, 1, 16, dtype=torch.uint8)}
    base = open_checkpoint(str(write_checkpoint(tmp_path / "b", packed)))
    with pytest.raises(PlanError, match=r"stores as MXFP4 .*nothing can be added"):
        attached(experts_adapter(tmp_path / "a", {"gate_up_proj": (8, 6)}), base)


def test_what_does_not_fit_names_the_base_of_the_adapter(tmp_path: Path, base: Checkpoint) -> None:
    data = config(base_model_name_or_path="org/its-base")
    with pytest.raises(PlanError) as caught:
        attached(write_adapter(tmp_path / "a", lora({"model.other": (4, 4)}), data), base)
    assert "name org/its-base, which the adapter was trained on, as base_model" in str(caught.value.hint)


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(DamagedInputError, match="it is an adapter; here a whole model is wanted"):
        open_checkpoint(str(write_adapter(tmp_path / "a", PAIR)))


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (
            {"model.layers.9.self_attn.q_proj": (16, 16)},
            r"is for 'model.layers.9.self_attn.q_proj.weight', which .* not",
        ),
        ({MODULE: (16, 20)}, rf"lora_B.weight' and '{A}' make \[16, 20\], but '{MODULE}.weight' has shape \[16, 16\]"),
    ],
)
def test_an_adapter_of_another_model(modules: dict[str, Any], said: str, tmp_path: Path, base: Checkpoint) -> None:
    with pytest.raises(PlanError, match=said):
        attached(write_adapter(tmp_path / "a", lora(modules)), base)


def test_many_patterns_on_many_modules_take_no_time(tmp_path: Path, base: Checkpoint) -> None:
    modules = {f"layers.{n}.x": (4, 4) for n in range(1500)}
    patterns = {f"layers.{n}.x": 4 for n in reversed(range(1500))}
    folder = write_adapter(tmp_path / "a", lora(modules), config(alpha_pattern=patterns))
    began = time.process_time()
    open_adapter(str(folder))
    assert time.process_time() - began < 10


def test_modules_of_the_tests_have_the_models_shapes(base: Checkpoint) -> None:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    modules = llama_modules(names)
    assert len(modules) == 14
    assert all(base.tensors[f"{module}.weight"].shape == shape for module, shape in modules.items())


# --- Names that other programs write --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        lambda name: name.replace(".weight", ".default.weight"),
        lambda name: name.replace(".weight", ".my_task.weight"),
        lambda name: "module." + name,
        lambda name: name.replace("self_attn", "_checkpoint_wrapped_module.self_attn"),
        lambda name: "_orig_mod." + name.replace("layers", "_fsdp_wrapped_module.layers"),
    ],
)
def test_names_of_wrappers_and_of_the_adapter_do_not_matter(
    changed: Callable[[str], str], tmp_path: Path, base: Checkpoint
) -> None:
    expert = attached(write_adapter(tmp_path / "a", {changed(name): tensor for name, tensor in PAIR.items()}), base)
    assert list(expert.factors) == [MODULE + ".weight"]


def test_a_whole_module_of_a_named_adapter(tmp_path: Path, base: Checkpoint) -> None:
    tensors = {name.replace(".weight", ".mine.weight"): tensor for name, tensor in PAIR.items()}
    tensors[f"{PREFIX}model.norm.modules_to_save.mine.weight"] = torch.ones(16)
    tensors[f"{PREFIX}lm_head.modules_to_save.mine.weight"] = torch.ones(40, 16)
    expert = attached(write_adapter(tmp_path / "a", tensors), base)
    assert expert.saved("model.norm.weight") is not None
    assert expert.saved("lm_head.weight") is not None


def test_dora_without_its_lengths_is_damaged(tmp_path: Path, base: Checkpoint) -> None:
    with pytest.raises(DamagedInputError, match="has no lora_magnitude_vector, but use_dora is set"):
        attached(write_adapter(tmp_path / "a", PAIR, config(use_dora=True)), base)
    short = {**PAIR, f"{PREFIX}{MODULE}.lora_magnitude_vector": torch.ones(15)}
    with pytest.raises(PlanError, match=r"has 15 values, but .*lora_B.weight' has 16 rows"):
        attached(write_adapter(tmp_path / "b", short, config(use_dora=True)), base)


# --- Experts of a mixture -------------------------------------------------------------------------------------------

EXPERTS = "model.layers.0.mlp.experts"


def experts_adapter(folder: Path, params: dict[str, tuple[int, int]], count: int = 3, **keys: Any) -> Path:
    """Stacked pairs for parameters by the sizes of ``lora_B`` and ``lora_A``; the first is the innermost."""
    tensors = {}
    for depth, (rows, columns) in enumerate(reversed(params.values())):
        module = PREFIX + EXPERTS + ".base_layer" * depth
        tensors[f"{module}.lora_A.weight"] = torch.ones(2 * count, columns)
        tensors[f"{module}.lora_B.weight"] = torch.ones(rows, 2 * count)
    return write_adapter(folder, tensors, config(target_parameters=[f"mlp.experts.{name}" for name in params], **keys))


def fused_base(folder: Path, gate_up: tuple[int, int], down: tuple[int, int], kind: str = "x") -> Checkpoint:
    tensors = {f"{EXPERTS}.gate_up_proj": torch.ones(3, *gate_up), f"{EXPERTS}.down_proj": torch.ones(3, *down)}
    return open_checkpoint(str(write_checkpoint(folder, tensors, config={"model_type": kind})))


def test_the_pairs_of_each_expert_are_found_in_the_stacked_ones(tmp_path: Path) -> None:
    base = fused_base(tmp_path / "b", (8, 6), (6, 4))
    expert = attached(experts_adapter(tmp_path / "a", {"gate_up_proj": (8, 6), "down_proj": (6, 4)}), base)
    (one,) = expert.factors[f"{EXPERTS}.gate_up_proj"]
    assert (one.first, one.rows, one.columns, one.experts, one.lane) == (0, 8, 6, 3, (0, 3))
    assert (one.transposed, one.rank, one.scale) == (False, 2, 2)
    assert f"{EXPERTS}.base_layer." in one.b.name.removeprefix(PREFIX)


def test_single_experts_take_their_share_of_stacked_pairs(tmp_path: Path) -> None:
    tensors = {f"{EXPERTS}.{n}.{part}_proj.weight": torch.ones(4, 6) for n in range(3) for part in ("gate", "up")}
    tensors |= {f"{EXPERTS}.{n}.down_proj.weight": torch.ones(6, 4) for n in range(3)}
    base = open_checkpoint(str(write_checkpoint(tmp_path / "b", tensors)))
    expert = attached(experts_adapter(tmp_path / "a", {"gate_up_proj": (8, 6), "down_proj": (6, 4)}), base)
    assert expert.factors.keys() == tensors.keys()
    first, up = (expert.factors[f"{EXPERTS}.{name}_proj.weight"][0] for name in ("0.gate", "2.up"))
    assert (up.rows, up.columns, up.experts, up.lane, up.rank) == (4, 6, 1, (2, 3), 2)
    assert up.a.start - first.a.start == 2 * 2 * 6 * 4, "the third expert's rows of lora_A"
    assert up.b.start - first.b.start == 4 * 2 * 3 * 4, "the lower rows of lora_B"


@pytest.mark.parametrize(
    ("kind", "version", "sibling", "transposed"),
    [
        ("qwen3_moe", "0.21.2", None, False),
        ("qwen3_moe", "0.19.0.dev0", None, False),
        ("qwen3_moe", "0.18.1", None, True),
        ("qwen3_moe", None, None, True),
        ("gpt_oss", "0.21.2", None, True),
        ("gpt_oss", None, None, True),
        ("anything", None, (8, 6), False),
        ("anything", "0.21.2", (6, 8), True),
    ],
)
def test_which_way_round_a_square_is(
    kind: str, version: str | None, sibling: tuple[int, int] | None, transposed: bool, tmp_path: Path
) -> None:
    """PEFT took the rows of a parameter for ``lora_A`` before 0.19; a pair of the same module tells either way."""
    base = fused_base(tmp_path / "b", (8, 6), (6, 6), kind)
    params = {"gate_up_proj": sibling} if sibling is not None else {}
    folder = experts_adapter(tmp_path / "a", {**params, "down_proj": (6, 6)}, peft_version=version)
    assert {one.transposed for one in attached(folder, base).factors[f"{EXPERTS}.down_proj"]} == {transposed}


def test_a_square_of_which_nothing_tells_is_refused(tmp_path: Path) -> None:
    base = fused_base(tmp_path / "b", (6, 8), (6, 6), "qwen3_vl_moe")
    folder = experts_adapter(tmp_path / "a", {"down_proj": (6, 6)}, peft_version="0.21.2")
    with pytest.raises(PlanError, match="nothing says which way round"):
        attached(folder, base)


def test_pairs_that_fit_no_parameter_are_refused(tmp_path: Path) -> None:
    base = fused_base(tmp_path / "b", (8, 6), (6, 4))
    with pytest.raises(PlanError, match=r"not clear for which parameters .*down_proj \[3, 6, 4\]"):
        attached(experts_adapter(tmp_path / "a", {"down_proj": (6, 5)}), base)
    with pytest.raises(PlanError, match="not clear for which parameters"):
        attached(experts_adapter(tmp_path / "c", {"down_proj": (6, 4)}, count=4), base)


def test_parameters_that_the_base_has_under_older_names(tmp_path: Path) -> None:
    """Aria's, as transformers 4 saves them."""
    tensors = {f"{EXPERTS}.fc1.weight": torch.ones(3, 8, 6), f"{EXPERTS}.fc2.weight": torch.ones(3, 6, 4)}
    base = open_checkpoint(str(write_checkpoint(tmp_path / "b", tensors)))
    keys = {"alpha_pattern": {"gate_up_proj": 8}}
    expert = attached(experts_adapter(tmp_path / "a", {"gate_up_proj": (8, 6), "down_proj": (6, 4)}, **keys), base)
    assert {name: (one.rows, one.scale) for name, (one,) in expert.factors.items()} == {
        f"{EXPERTS}.fc1.weight": (8, 4.0), f"{EXPERTS}.fc2.weight": (6, 2.0)
    }  # fmt: skip


def test_parameters_of_any_name(tmp_path: Path) -> None:
    """Also ones of two dimensions, which PEFT takes for matrices (out, in)."""
    tensors = {f"{EXPERTS}.wide": torch.ones(3, 8, 6), f"{EXPERTS}.flat": torch.ones(12, 5)}
    base = open_checkpoint(str(write_checkpoint(tmp_path / "b", tensors)))
    expert = attached(experts_adapter(tmp_path / "a", {"wide": (8, 6)}), base)
    assert expert.factors[f"{EXPERTS}.wide"][0].experts == 3
    expert = attached(experts_adapter(tmp_path / "c", {"flat": (12, 5)}, count=1), base)
    (one,) = expert.factors[f"{EXPERTS}.flat"]
    assert (one.rows, one.columns, one.experts, one.transposed) == (12, 5, 1, False)


def test_a_router_by_target_parameters_is_a_matrix(tmp_path: Path) -> None:
    gate = "model.layers.0.mlp.gate"
    base = open_checkpoint(str(write_checkpoint(tmp_path / "b", {f"{gate}.weight": torch.ones(4, 8)})))
    keys = {"target_parameters": ["gate.weight"], "alpha_pattern": {"gate.weight": 8}}
    expert = attached(write_adapter(tmp_path / "a", lora({gate: (4, 8)}), config(**keys)), base)
    assert [(one.rows, one.columns, one.scale) for one in expert.factors[f"{gate}.weight"]] == [(4, 8, 4.0)]


def test_a_convolution_is_the_matrix_of_its_rows(tmp_path: Path) -> None:
    base = open_checkpoint(str(write_checkpoint(tmp_path / "b", {"conv.weight": torch.ones(6, 4, 3, 3)})))
    tensors = {f"{PREFIX}conv.lora_A.weight": torch.ones(2, 4, 3, 3)}
    tensors[f"{PREFIX}conv.lora_B.weight"] = torch.ones(6, 2, 1, 1)
    (one,) = attached(write_adapter(tmp_path / "a", tensors), base).factors["conv.weight"]
    assert (one.rows, one.columns, one.rank) == (6, 36, 2)
    grouped = open_checkpoint(str(write_checkpoint(tmp_path / "g", {"conv.weight": torch.ones(6, 2, 3, 3)})))
    with pytest.raises(PlanError, match=r"make \[6, 4, 3, 3\], but 'conv.weight' has shape \[6, 2, 3, 3\]"):
        attached(write_adapter(tmp_path / "c", tensors), grouped)
