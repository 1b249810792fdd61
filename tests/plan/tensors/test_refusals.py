"""Refused tensors: why each cannot be merged, what lies behind it, and a rule that names them and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.plan.tensors.refusals import has_more_rows, offer, quantised, refusal, refusal_message, remedy
from svc_dist.tensor_names import matches

W, E, HEAD = "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight"


def model(location: str, config: dict[str, Any] | None = None, **shapes: tuple[int, ...]) -> Checkpoint:
    names = {"w": W, "e": E, "head": HEAD}
    specs = {names[key]: TensorSpec(names[key], "BF16", shape, "m.safetensors", 0, 0) for key, shape in shapes.items()}
    return Checkpoint(location, (), specs, config)


TIED = {"tie_word_embeddings": True}
CASES: list[tuple[str, Checkpoint, Checkpoint, str | None]] = [
    (W, model("base", w=(4, 6)), model("one", w=(4, 6)), None),
    (W, model("base", w=(4, 6)), model("one", w=(4, 7)), "shape [4, 6] in the base, [4, 7] in one"),
    (
        E,
        model("base", e=(9, 6)),
        model("one", e=(10, 6)),
        "shape [9, 6] in the base, [10, 6] in one (another vocabulary)",
    ),
    (W, model("base", w=(4, 6)), model("one"), "missing in one"),
    (W, model("base"), model("one", w=(4, 6)), "in one, but not in the base base"),
    (HEAD, model("base", head=(9, 6)), model("one", TIED), "tied in one"),
    (HEAD, model("base", TIED), model("one", head=(9, 6)), "in one, but not in the base base"),
]


@pytest.mark.parametrize(("name", "base", "expert", "reason"), CASES)
def test_each_reason_names_the_models(name: str, base: Checkpoint, expert: Checkpoint, reason: str | None) -> None:
    assert refusal(name, base, [expert], "error", quantised=None) == reason


def test_other_rows_are_no_reason_where_the_recipe_chooses_which_are_merged() -> None:
    small, large = model("small", e=(9, 6)), model("large", e=(10, 6))
    assert refusal(E, small, [large], "base", quantised=None) is None
    assert refusal(E, large, [small], "base", quantised=None) is None
    assert refusal(E, large, [small], "common", quantised=None) is None
    assert refusal(E, small, [large], "common", quantised=None) is None
    assert refusal(E, large, [model("empty", e=(0, 6))], "common", quantised=None) is not None
    assert has_more_rows(E, small, large)
    assert not has_more_rows(E, large, small)
    assert not has_more_rows(E, small, model("none"))


def test_a_reason_given_for_a_quantised_tensor_is_passed_on() -> None:
    base = model("base", w=(4, 6))
    assert refusal(W, base, [base], "error", quantised="it is quantised") == "it is quantised"
    assert quantised([base]) == {}


@pytest.mark.parametrize(
    ("refused", "patterns"),
    [
        (["a.0.w", "a.1.w"], ["a.*.w"]),
        (["a.0.w"], ["a.0.w"]),
        (["a.0.w", "a.1.w", "b"], ["a.*.w", "b"]),
    ],
)
def test_the_rule_matches_the_refused_tensors_and_no_others(refused: list[str], patterns: list[str]) -> None:
    names = ["a.0.w", "a.1.w", "a.0.v", "b", "bb"]
    rule = yaml.safe_load(remedy(refused, names).partition("\n")[2])["rules"][0]
    assert rule["keep"] == "base"
    assert rule["match"] == patterns
    assert [name for name in names if matches(name, rule["match"])] == refused


def test_a_rule_is_offered_only_where_it_drops_nothing_that_experts_learnt() -> None:
    whole, without = model("base", w=(4, 6), e=(9, 6), head=(9, 6)), model("one", w=(4, 6))
    names = [*whole.tensors]
    assert "keep: base" not in offer([HEAD], names, whole, [without])  # a head over a merged embedding
    assert "keep: base" not in offer([W], names, whole, [model("one", w=(4, 7), e=(9, 6))])  # another architecture
    assert "keep: base" not in offer([W], names, without, [whole])
    assert "keep: base" in offer([E], names, model("base", w=(4, 6), e=(9, 6)), [without])  # a module that none has
    assert "keep: base" in offer(["h.0.attn.bias"], names, whole, [without])


def explained(names: Mapping[str, str], base: Checkpoint, expert: Checkpoint) -> str:
    return refusal_message(list(names.items()), base, [expert])


def test_a_message_counts_and_cuts_a_long_list_and_explains_what_people_meet_often() -> None:
    base, expert = model("base", w=(4, 6), e=(9, 6)), model("one", w=(4, 7), e=(10, 6))
    one = explained({W: "shape"}, base, expert)
    assert one.splitlines() == ["1 tensor cannot be merged until a rule says what to do:", f"  {W}: shape"]
    many = explained({f"{W}.{number}": "shape" for number in range(20)}, expert, base)
    assert "20 tensors" in many
    assert "... and 12 more" in many
    assert "docs/vocabulary.md" in explained({E: "shape"}, base, expert)
    assert "docs/multimodal.md" in explained({"vision.weight": "not in the base"}, base, expert)


def test_where_a_rename_is_offered_nothing_speaks_of_towers() -> None:
    base, expert = model("base"), model("one", w=(4, 6))
    refused = [(W, "in one, but not in the base base")]
    assert "keep: owner" in refusal_message(refused, base, [expert])
    said = refusal_message(refused, base, [expert], renames=True)
    assert said.startswith("1 tensor cannot be merged until their names agree:")
    assert "keep" not in said
