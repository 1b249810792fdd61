"""What a name tells is read from its whole parts."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from svc_dist.tensor_names import (
    TensorName,
    depths,
    is_convolution,
    is_output_head,
    matches,
    parse_name,
    pattern_of,
    renamed,
)


@pytest.mark.parametrize(
    ("name", "stack", "layer", "kind"),
    [
        ("model.layers.12.self_attn.q_proj.weight", "model", 12, "self_attn.q_proj"),
        ("bert.encoder.layer.0.output.dense.bias", "bert.encoder", 0, "output.dense.bias"),
        ("h.3.attn.c_attn.weight", "", 3, "attn.c_attn"),
        ("model.layers.7.mlp.experts.19.up_proj.weight", "model", 7, "mlp.experts.*.up_proj"),
        ("vision_tower.encoder.layers.2.fc1.weight", "vision_tower.encoder", 2, "fc1"),
        ("lm_head.weight", "", None, "lm_head"),
        ("visual.merger.mlp.0.weight", "", None, "visual.merger.mlp.*"),
        ("multilayer.3.weight", "", None, "multilayer.*"),
    ],
)
def test_a_name_says_stack_layer_and_kind_of_module(name: str, stack: str, layer: int | None, kind: str) -> None:
    assert parse_name(name) == TensorName(stack, layer, kind)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.0.w", "a.1.w", "a.4.w"], {"a.0.w": 0, "a.1.w": 0.25, "a.4.w": 1}),
        (["a.0.w"], {"a.0.w": 1}),  # a single layer is the last, as in mergekit
        (["embed.w", "a.0.experts.7.w", "a.2.experts.3.w"], {"a.0.experts.7.w": 0, "a.2.experts.3.w": 1}),
        (["a.0.w", "a.2.w", "visual.0.w", "visual.1.w"], {"a.0.w": 0, "a.2.w": 1, "visual.0.w": 0, "visual.1.w": 1}),
    ],
)
def test_depth_counts_the_layers_of_each_tower(names: list[str], expected: dict[str, float]) -> None:
    assert depths(names) == expected


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight", "model.lm_head.weight", "language_model.lm_head.weight", "output.weight", "embed_out.weight",
        "language_model.output.weight", "lm_head.decoder.weight", "cls.predictions.decoder.weight", "proj_out.weight",
        "head.weight",
    ],
)  # fmt: skip
def test_output_heads_of_many_architectures_are_known(name: str) -> None:
    assert is_output_head(name)


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.head.weight", "vision_model.head.multihead_attention.in_proj_weight", "score.weight",
        "model.layers.0.self_attn.multihead.weight", "classifier.weight", "lm_head.bias", "film_head.weight",
        "bert.encoder.layer.0.attention.output.weight", "head_dim.weight", "lm_head.dense.weight",
    ],
)  # fmt: skip
def test_what_only_has_head_in_its_name_is_no_output_head(name: str) -> None:
    assert not is_output_head(name)


@pytest.mark.parametrize(
    ("name", "convolution"),
    [
        ("conv1d.weight", True),
        ("vision.patch_conv.weight", True),
        ("encoder.Conv_0.kernel", True),
        ("wav2vec2.feature_extractor.conv_layers.0.conv.weight", True),
        ("encoder.layers.0.conv_module.pointwise_conv1.weight", True),
        ("block.3.dwconv.weight", True),
        ("encoder.pos_conv_embed.conv.weight", True),
        ("model.layers.0.unconventional.experts", False),
        ("conversation.experts.up_proj", False),
        ("model.layers.0.mlp.experts.gate_up_proj", False),
    ],
)
def test_a_convolution_is_told_by_whole_words(name: str, convolution: bool) -> None:
    assert is_convolution(name) == convolution


def test_a_pattern_matches_the_name_that_it_is_made_of() -> None:
    name = "layers.3.odd[*]?.weight"
    assert matches(name, [pattern_of(name)])
    assert not matches("layers.3.odd[x]?.weight", [pattern_of(name)])
    assert matches("layers.12.odd[*]?.weight", [pattern_of(name, any_number=True)])


def test_patterns_match_as_those_of_a_shell() -> None:
    patterns = [
        "a.weight", "*a.weight", "a*", "*.q_*", "*", "**", "*a*b", "a?c", "*.[ab].weight", "", "*lm_head*", "[!a]*",
        "a\nb*",
    ]  # fmt: skip
    names = [
        "a.weight",
        "b.a.weight",
        "a",
        "ab",
        "abc",
        "x.q_proj",
        "",
        "x.a.weight",
        "x.c.weight",
        "m.lm_head.bias",
        "a\nbc",
    ]
    for pattern in patterns:
        assert [matches(name, [pattern]) for name in names] == [fnmatchcase(name, pattern) for name in names], pattern
    assert [matches(name, patterns[:3]) for name in names] == [
        any(fnmatchcase(name, pattern) for pattern in patterns[:3]) for name in names
    ]
    assert not matches("a", [])


@pytest.mark.parametrize(
    ("name", "pairs", "new"),
    [
        ("model.a", [("model.", "")], "a"),
        ("model.a", [("mod.", "")], "model.a"),
        ("model.a", [("model.", "m."), ("m.", "n.")], "m.a"),
        ("model.a", [("", "x.")], "x.model.a"),
        ("a.LayerNorm.gamma", [("*.LayerNorm.gamma", "*.LayerNorm.weight")], "a.LayerNorm.weight"),
        ("a.LayerNorm.gamma2", [("*.LayerNorm.gamma", "*.LayerNorm.weight")], "a.LayerNorm.gamma2"),
        ("a.w.b.w.c", [("*.w.*", "*.*")], "a.b.c"),
        ("a.b", [("*.*", "*.x.*")], "a.x.b"),
        ("_o.a.w.LayerNorm.beta", [("_o.", ""), ("*.w.*", "*.*"), ("*.beta", "*.bias")], "a.LayerNorm.bias"),
        ("h.0.a(b", [("h.*(b", "layers.*+")], "layers.0.a+"),
    ],
)
def test_renamed(name: str, pairs: list[tuple[str, str]], new: str) -> None:
    assert renamed(name, pairs)[0] == new


def test_the_pairs_that_apply_are_told() -> None:
    assert renamed("a.b", [("x", ""), ("a.", ""), ("*", "y*"), ("a", "z")]) == ("yb", [1, 2])
