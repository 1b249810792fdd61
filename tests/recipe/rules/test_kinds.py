"""The kinds of tensors, under the names that families of models give them."""

from __future__ import annotations

import pytest

from svc_dist.recipe.rules.kinds import kinds_of

#: Names of a layer with experts by family: those of the routed experts, the shared ones, the router, and others.
FAMILIES = {
    "DeepSeek, Kimi, GLM": (
        ["mlp.experts.7.gate_proj.weight", "mlp.experts.255.down_proj.weight"],
        ["mlp.shared_experts.up_proj.weight"],
        ["mlp.gate.weight", "mlp.gate.e_score_correction_bias"],
        ["self_attn.kv_b_proj.weight", "input_layernorm.weight"],
    ),
    "DeepSeek fused": (
        ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ["mlp.shared_experts.up_proj.weight"],
        ["mlp.gate.weight"],
        ["self_attn.q_a_proj.weight"],
    ),
    "Qwen2-MoE": (
        ["mlp.experts.0.up_proj.weight"],
        ["mlp.shared_expert.gate_proj.weight", "mlp.shared_expert_gate.weight"],
        ["mlp.gate.weight"],
        ["self_attn.q_norm.weight"],
    ),
    "Mixtral": (["block_sparse_moe.experts.3.w1.weight"], [], ["block_sparse_moe.gate.weight"], ["norm.weight"]),
    "MiniMax": (
        ["block_sparse_moe.experts.3.w2.weight"],
        [],
        ["block_sparse_moe.gate.weight", "block_sparse_moe.e_score_correction_bias"],
        ["self_attn.qkv_proj.weight"],
    ),
    "gpt-oss": (
        ["mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_bias", "mlp.experts.down_proj_bias"],
        [],
        ["mlp.router.weight", "mlp.router.bias"],
        ["self_attn.sinks"],
    ),
    "Llama 4": (
        ["feed_forward.experts.gate_up_proj"],
        ["feed_forward.shared_expert.up_proj.weight"],
        ["feed_forward.router.weight"],
        ["self_attn.o_proj.weight"],
    ),
    "DeepSeek-V4": (
        ["ffn.experts.9.w3.weight"],
        ["ffn.shared_experts.w3.weight"],
        ["ffn.gate.bias"],
        ["attn.wo.weight"],
    ),
    "Granite": (
        ["block_sparse_moe.input_linear.weight"],
        ["shared_mlp.input_linear.weight"],
        ["block_sparse_moe.router.layer.weight"],
        ["self_attn.q_proj.weight"],
    ),
    "Nemotron-H": (
        ["mixer.experts.1.up_proj.weight"],
        ["mixer.shared_experts.up_proj.weight"],
        ["mixer.gate.e_score_correction_bias"],
        ["mixer.in_proj.weight"],
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["model.layers.3.", "language_model.model.layers.60.", "layers.0."])
def test_every_family_has_its_names(family: str, prefix: str) -> None:
    routed, shared, router, others = ([prefix + name for name in names] for names in FAMILIES[family])
    expected = dict.fromkeys(routed, "routed_experts")
    expected |= dict.fromkeys(shared, "shared_experts") | dict.fromkeys(router, "router")
    assert kinds_of([*others, *router, *shared, *routed]) == expected


def test_a_dense_layer_has_none_of_them() -> None:
    dense = ["mlp.gate.weight", "mlp.gate_proj.weight", "shared_mlp.output_linear.weight", "mlp.router.weight"]
    mixture = "model.layers.1.mlp.experts.0.up_proj.weight"
    assert kinds_of([*(f"model.layers.0.{name}" for name in dense), mixture]) == {mixture: "routed_experts"}
    assert kinds_of(["lm_head.weight", "model.embed_tokens.weight", "gate.weight", "transformer.experts"]) == {
        "transformer.experts": "routed_experts"
    }


def test_all_of_a_layer_for_multi_token_prediction_is_of_one_kind() -> None:
    extra = [
        f"model.layers.61.{name}"
        for name in ("eh_proj.weight", "mlp.experts.0.up_proj.weight", "mlp.gate.weight", "self_attn.o_proj.weight")
    ]
    last = "model.layers.60.mlp.experts.0.up_proj.weight"
    assert kinds_of([last, *extra]) == {last: "routed_experts", **dict.fromkeys(extra, "mtp")}


@pytest.mark.parametrize(
    "name",
    ["mtp.layers.0.mlp.experts.3.up_proj.weight", "mtp.fc.weight", "model.mtp_layers.0.enorm.weight",
     "model.mtp_block.0.mlp.gate_proj.weight", "mtp.0.attn.wo.weight", "model.mtp.norm.weight", "model.nextn.0.a"],
)  # fmt: skip
def test_multi_token_prediction_under_a_name_of_its_own(name: str) -> None:
    assert kinds_of([name, "model.layers.0.self_attn.o_proj.weight", "smtp.weight"]) == {name: "mtp"}
