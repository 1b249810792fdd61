"""Every tensor is accounted for: merged, copied, tied, left out, or refused with the rule that would decide."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from svc_dist.checkpoint.checkpoint import Checkpoint
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.errors import ExitCode, PlanError, RecipeError
from svc_dist.plan.tensors.dispositions import Decision, decide
from svc_dist.plan.tensors.refusals import remedy
from svc_dist.recipe.load import recipe_from
from svc_dist.tensor_names import natural_key
from tests.support.checkpoints import llama_config, llama_like

Shape = tuple[str, tuple[int, ...]]
WEIGHT: Shape = ("BF16", (4, 6))


def model(location: str, tensors: Mapping[str, Shape], config: dict[str, Any] | None = None) -> Checkpoint:
    """A checkpoint as its headers tell it: decisions look at nothing else."""
    specs = {name: TensorSpec(name, *entry, "model.safetensors", 0, 0) for name, entry in tensors.items()}
    return Checkpoint(location, (), specs, config)


def decided(
    base: Checkpoint, *experts: Checkpoint, rules: list[dict[str, Any]] | None = None, **keys: Any
) -> dict[str, Decision]:
    data: dict[str, Any] = {
        "base_model": "/base",
        "models": [{"model": expert.location} for expert in experts],
        "merge_method": "task_arithmetic",
        "rules": rules or [],
    }
    recipe = recipe_from(data | keys)
    decisions = decide(recipe, recipe.results[0], base, experts)
    assert [d.name for d in decisions] == sorted((d.name for d in decisions), key=natural_key)
    return {decision.name: decision for decision in decisions}


def kinds(decisions: Mapping[str, Decision]) -> dict[str, str]:
    return {name: decision.disposition.kind for name, decision in decisions.items()}


def llama(**options: Any) -> dict[str, Shape]:
    return {name: ("BF16", tuple(tensor.shape)) for name, tensor in llama_like(0, **options).items()}


def test_every_name_of_every_model_is_decided_in_natural_order() -> None:
    tensors = {f"layers.{number}.weight": WEIGHT for number in (10, 9, 1, 0, 2)}
    found = decided(model("/base", tensors), model("/one", tensors))
    assert list(found) == [f"layers.{number}.weight" for number in (0, 1, 2, 9, 10)]
    assert set(kinds(found).values()) == {"merged"}


def test_the_decisions_say_by_what_and_with_which_parameters() -> None:
    tensors = {"a.weight": WEIGHT, "b.weight": WEIGHT, "norm": ("BF16", (4,))}
    found = decided(
        model("/base", tensors), model("/one", tensors),
        calibrate="svc", rules=[{"match": "b.*", "merge_method": "linear", "calibrate": "none"}],
    )  # fmt: skip
    assert found["a.weight"].disposition.method == "task_arithmetic"
    assert found["a.weight"].disposition.calibration == {"method": "svc", "alpha": 1.0, "side": "left"}
    assert found["a.weight"].disposition.reason == "the recipe"
    assert (found["b.weight"].disposition.method, found["b.weight"].disposition.calibration) == ("linear", None)
    assert found["b.weight"].disposition.reason == "rules[0]"
    assert found["norm"].disposition.calibration is None  # no matrix


@pytest.mark.parametrize("dtype", ["I64", "I32", "U8", "I8", "BOOL", "U16", "C64"])
def test_integers_and_flags_are_copied_from_the_base(dtype: str) -> None:
    tensors = {"a.weight": WEIGHT, "position_ids": (dtype, (1, 8))}
    found = decided(model("/base", tensors), model("/one", tensors))["position_ids"].disposition
    assert (found.kind, found.reason) == ("copied", f"{dtype} is not merged")


def test_a_kept_tensor_is_copied_and_says_by_which_rule() -> None:
    tensors = {"a.weight": WEIGHT, "b.weight": WEIGHT}
    found = decided(model("/base", tensors), model("/one", tensors), rules=[{"match": "b.*", "keep": "base"}])
    assert kinds(found) == {"a.weight": "merged", "b.weight": "copied"}
    assert found["b.weight"].disposition.reason == "kept from the base by rules[0]"


def test_a_head_tied_everywhere_is_simply_absent() -> None:
    tied = llama_config(tied=True)
    found = decided(model("/base", llama(head=False), tied), model("/one", llama(head=False), tied))
    assert "lm_head.weight" not in found
    assert set(kinds(found).values()) == {"merged"}


@dataclass(frozen=True)
class Case:
    """Models that do not fit together: what is refused, what the message says, what becomes of it by the remedy."""

    models: Callable[[], tuple[Checkpoint, ...]]
    refused: dict[str, str]
    words: tuple[str, ...]


def pair(base: Mapping[str, Shape], *experts: Mapping[str, Shape]) -> tuple[Checkpoint, ...]:
    return model("/base", base), *(model(f"/expert{number}", tensors) for number, tensors in enumerate(experts))


PLAIN = {"a.weight": WEIGHT, "b.weight": WEIGHT}
TIED, UNTIED = llama_config(tied=True), llama_config(tied=False)
FP8 = {"a.weight": ("F8_E4M3", (4, 6)), "a.weight_scale_inv": ("F32", (1, 1)), "b.weight": WEIGHT}
GPTQ = {
    "a.qweight": ("I32", (4, 6)), "a.qzeros": ("I32", (1, 6)), "a.scales": ("F16", (1, 6)), "a.g_idx": ("I32", (4,)),
    "b.weight": WEIGHT,
}  # fmt: skip
INT8 = {"a.weight": ("I8", (4, 6)), "a.weight_scale": ("F32", (4, 1)), "b.weight": WEIGHT}
NF4 = {"a.weight": ("U8", (12, 1)), "a.weight.absmax": ("F32", (1,)), "a.weight.quant_map": ("F32", (16,)),
       "b.weight": WEIGHT}  # fmt: skip
MX = {"a.weight": ("F4", (4, 6)), "a.weight_scale": ("F8_E8M0", (4, 1)), "b.weight": WEIGHT}
_COMPANIONS = "companions of quantised tensors, which have no meaning alone"
QUANTISED = {"quantization_config": {"quant_method": "gptq"}}

CASES = {
    "missing in one expert": Case(
        lambda: pair(PLAIN, PLAIN, {"a.weight": WEIGHT}), {"b.weight": "copied"}, ("b.weight: missing in /expert1",)
    ),
    "missing in all experts": Case(
        lambda: pair(PLAIN, {"a.weight": WEIGHT}, {"a.weight": WEIGHT}),
        {"b.weight": "copied"},
        ("missing in /expert0, /expert1",),
    ),
    "extra in an expert": Case(
        lambda: pair(PLAIN, {**PLAIN, "c.weight": WEIGHT}),
        {"c.weight": "left_out"},
        ("c.weight: in /expert0, but not in the base /base", "written out by `keep: owner`"),
    ),
    "another shape": Case(
        lambda: pair(PLAIN, {**PLAIN, "b.weight": ("BF16", (6, 4))}),
        {"b.weight": "copied"},
        ("b.weight: shape [4, 6] in the base, [6, 4] in /expert0",),
    ),
    "another rank": Case(
        lambda: pair(PLAIN, {**PLAIN, "b.weight": ("BF16", (24,))}), {"b.weight": "copied"}, ("[24] in /expert0",)
    ),
    "a grown vocabulary": Case(
        lambda: pair(llama(), llama(vocabulary=48)),
        {"model.embed_tokens.weight": "copied", "lm_head.weight": "copied"},
        ("[40, 16] in the base, [48, 16] in /expert0 (another vocabulary)", "`vocab: base` those", "2 tensors cannot"),
    ),
    "head tied in one expert only": Case(
        lambda: (*pair(llama(), llama()), model("/two", llama(head=False), TIED)),
        {"lm_head.weight": "copied"},
        ("lm_head.weight: tied in /two",),
    ),
    "float in one, integer in the other": Case(
        lambda: pair(PLAIN, {**PLAIN, "b.weight": ("I8", (4, 6))}),
        {"b.weight": "copied"},
        ("b.weight: dtype BF16 in the base, I8 in /expert0",),
    ),
    "fp8 everywhere": Case(
        lambda: pair(FP8, FP8),
        {"a.weight": "copied", "a.weight_scale_inv": "copied"},
        (
            "a.weight: F8_E4M3 in /base/model.safetensors is quantised (FP8 in blocks)",
            _COMPANIONS,
        ),
    ),
    "fp8 in one expert": Case(
        lambda: pair({"a.weight": WEIGHT, "b.weight": WEIGHT}, PLAIN, FP8),
        {"a.weight": "copied", "a.weight_scale_inv": "left_out"},
        ("a.weight: F8_E4M3 in /expert1/model.safetensors is quantised (FP8 in blocks)",),
    ),
    "int8 with scales": Case(
        lambda: pair(INT8, INT8),
        {"a.weight": "copied", "a.weight_scale": "copied"},
        ("a.weight: I8 in /base/model.safetensors is quantised (INT8 with scales)",),
    ),
    "four bits with their tables": Case(
        lambda: pair(NF4, NF4),
        {"a.weight": "copied", "a.weight.absmax": "copied", "a.weight.quant_map": "copied"},
        (
            "a.weight: U8 in /base/model.safetensors is quantised (bitsandbytes, 4 bits)",
            _COMPANIONS,
        ),
    ),
    "packed floats": Case(
        lambda: pair(MX, MX), {"a.weight": "copied", "a.weight_scale": "copied"}, ("quantised (MXFP4)",)
    ),
    "gptq by its config": Case(
        lambda: (model("/base", GPTQ, QUANTISED), model("/one", GPTQ, QUANTISED)),
        dict.fromkeys(("a.g_idx", "a.qweight", "a.qzeros", "a.scales"), "copied"),
        ("a.qweight: I32 in /base/model.safetensors is quantised (GPTQ)", _COMPANIONS),
    ),
    "gptq that no config names": Case(
        lambda: pair(GPTQ, GPTQ),
        dict.fromkeys(("a.g_idx", "a.qweight", "a.qzeros", "a.scales"), "copied"),
        ("a.qweight: I32 in /base/model.safetensors is quantised (GPTQ)", "dequantise it with the tool that made it"),
    ),
    "odd characters in names": Case(
        lambda: pair({"a.weight": WEIGHT, 'x[0] "*?\n': WEIGHT}, {"a.weight": WEIGHT}),
        {'x[0] "*?\n': "copied"},
        ("x[0] \"*?\\n: missing in /expert0",),
    ),
    "hundreds of layers": Case(
        lambda: pair(
            {"a.weight": WEIGHT} | {f"layers.{n}.b.weight": WEIGHT for n in range(300)},
            {"a.weight": WEIGHT} | {f"layers.{n}.b.weight": ("BF16", (9, 9)) for n in range(300)},
        ),
        {f"layers.{n}.b.weight": "copied" for n in range(300)},
        ("300 tensors cannot be merged", "... and 292 more"),
    ),
}  # fmt: skip


def refusal(*models: Checkpoint) -> PlanError:
    with pytest.raises(PlanError) as caught:
        decided(*models)
    assert caught.value.exit_code == ExitCode.USAGE
    return caught.value


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_does_not_fit_together_is_refused_by_name(case: Case) -> None:
    error = refusal(*case.models())
    for word in case.words:
        assert word in error.message
    shown = [line for line in re.findall(r"^  (\S.*?): ", error.message, re.MULTILINE) if " more tensor" not in line]
    companions = [int(count) for count in re.findall(r"^  (\d+) more tensors? like", error.message, re.MULTILINE)]
    assert len(shown) + sum(companions) == min(8, len(case.refused))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_remedy_works_as_it_is_printed_and_touches_nothing_else(case: Case) -> None:
    hint = refusal(*case.models()).hint
    assert hint is not None
    if not hint.endswith('"'):  # no rule is offered; this is the one that a user could write
        hint = remedy(list(case.refused), {name for one in case.models() for name in one.tensors})
    rules = yaml.safe_load(hint.partition("\n")[2])["rules"]
    found = kinds(decided(*case.models(), rules=rules))
    assert {name: kind for name, kind in found.items() if kind != "merged"} == case.refused
    assert len(found) > len(case.refused)


def test_a_rule_that_merges_does_not_decide_about_what_cannot_be_merged() -> None:
    rules = [{"match": "b.*", "merge_method": "linear"}]
    with pytest.raises(PlanError, match=r"b\.weight: shape"):
        decided(*pair(PLAIN, {**PLAIN, "b.weight": ("BF16", (6, 4))}), rules=rules)


TOWER = {**PLAIN, "tower.weight": ("F32", (2, 3))}


@pytest.mark.parametrize("keep", ["owner", "expert1", "/expert1"])
def test_what_one_expert_brings_is_kept_from_it(keep: str) -> None:
    found = decided(*pair(PLAIN, PLAIN, TOWER), rules=[{"match": "tower.*", "keep": keep}])["tower.weight"]
    assert (found.disposition.kind, found.disposition.source) == ("copied", 2)
    assert found.disposition.reason == "kept from /expert1 by rules[0]"
    assert found.spec is not None
    assert (found.spec.dtype, found.spec.shape) == ("F32", (2, 3))


def test_the_owner_of_what_the_base_has_is_the_base() -> None:
    found = decided(*pair(TOWER, TOWER, PLAIN), rules=[{"match": "tower.*", "keep": "owner"}])["tower.weight"]
    assert (found.disposition.kind, found.disposition.source) == ("copied", 0)


def test_of_a_tensor_that_all_have_one_experts_can_be_kept() -> None:
    found = decided(*pair(PLAIN, PLAIN, PLAIN), rules=[{"match": "b.*", "keep": "expert0"}])["b.weight"]
    assert (found.disposition.kind, found.disposition.source) == ("copied", 1)


@pytest.mark.parametrize(
    ("keep", "models", "words"),
    [
        ("owner", pair(PLAIN, TOWER, TOWER), "from its owner, but /expert0, /expert1 have it and the base does not"),
        ("expert0", pair(PLAIN, PLAIN, TOWER), "keeps it from /expert0, which does not have it (it is in /expert1)"),
    ],
)
def test_what_cannot_be_kept_so_is_refused_by_name(keep: str, models: tuple[Checkpoint, ...], words: str) -> None:
    with pytest.raises(PlanError) as caught:
        decided(*models, rules=[{"match": "tower.*", "keep": keep}])
    assert words in caught.value.message


def test_only_an_output_head_is_tied_where_embeddings_are() -> None:
    tower = "vision_model.head.multihead_attention.in_proj_weight"
    models = (model("/base", llama(head=False), TIED), model("/one", {**llama(head=False), tower: WEIGHT}, TIED))
    with pytest.raises(PlanError, match="in_proj_weight: in /one, but not in the base /base"):
        decided(*models)
    assert kinds(decided(*models, rules=[{"match": tower, "keep": "base"}]))[tower] == "left_out"


def test_a_head_that_is_tied_in_an_expert_cannot_be_kept_from_it() -> None:
    models = (*pair(llama(), llama()), model("/two", llama(head=False), TIED))
    with pytest.raises(PlanError, match="from /two, which does not have it"):
        decided(*models, rules=[{"match": "lm_head.weight", "keep": "two"}])


GROWN = pair(llama(), llama(vocabulary=48), llama())


@pytest.mark.parametrize(
    "keys",
    [
        {"vocab": "base"},
        {"rules": [{"match": ["*embed*", "*head*"], "vocab": "base"}]},
        {"rules": [{"match": "*embed*", "vocab": "base", "merge_method": "linear"}], "vocab": "base"},
    ],
)
def test_of_a_grown_vocabulary_the_bases_rows_are_merged(keys: dict[str, Any]) -> None:
    found = decided(*GROWN, **keys)
    assert set(kinds(found).values()) == {"merged"}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert found[name].spec == GROWN[0].tensors[name]
        assert found[name].disposition.reason.endswith("without the rows beyond the base's (vocab: base)")
    assert "rows" not in found["model.norm.weight"].disposition.reason


def test_a_rule_can_refuse_what_the_recipe_allows() -> None:
    with pytest.raises(PlanError, match="1 tensor cannot be merged"):
        decided(*GROWN, vocab="base", rules=[{"match": "lm_head.*", "vocab": "error"}])


@pytest.mark.parametrize(
    "models",
    [
        pair(PLAIN, {**PLAIN, "b.weight": ("BF16", (8, 6))}),  # rows that are no tokens
        pair({"embed_tokens.weight": WEIGHT}, {"embed_tokens.weight": ("BF16", (8, 9))}),
    ],
)
def test_vocab_base_allows_nothing_but_other_numbers_of_tokens(models: tuple[Checkpoint, ...]) -> None:
    with pytest.raises(PlanError, match="cannot be merged"):
        decided(*models, vocab="base")


def test_other_float_dtypes_may_meet() -> None:
    other = {"a.weight": ("F32", (4, 6)), "b.weight": ("F16", (4, 6))}
    assert set(kinds(decided(*pair(PLAIN, other))).values()) == {"merged"}


def test_scales_of_plain_weights_are_weights() -> None:
    tensors = {**PLAIN, "a.scale": ("BF16", (4,)), "logit_scale": ("F32", ())}
    assert set(kinds(decided(*pair(tensors, tensors))).values()) == {"merged"}


def test_a_rule_that_matches_nothing_is_an_error_that_shows_a_name() -> None:
    with pytest.raises(RecipeError, match=r"rules\[0\]\.match\): matches no tensor of any model") as caught:
        decided(*pair(llama(), llama()), rules=[{"match": "embed_tokens*", "keep": "base"}])
    assert caught.value.hint is not None
    assert "like 'lm_head.weight'" in caught.value.hint


def test_a_rule_in_the_shadow_of_another_is_an_error() -> None:
    rules = [{"match": "*", "keep": "base"}, {"match": "a.*", "merge_method": "linear"}]
    with pytest.raises(RecipeError, match=r"rules\[1\]\.match\): every tensor .* is taken by rules\[0\]") as caught:
        decided(*pair(PLAIN, PLAIN), rules=rules)
    assert caught.value.hint == "put the narrower rule first"
    assert decided(*pair(PLAIN, PLAIN), rules=rules[::-1])["a.weight"].disposition.method == "linear"


def test_the_first_rule_that_matches_wins() -> None:
    rules = [{"match": "a.*", "keep": "base"}, {"match": "*.weight", "merge_method": "linear"}]
    found = decided(*pair(PLAIN, PLAIN), rules=rules)
    assert kinds(found) == {"a.weight": "copied", "b.weight": "merged"}
    assert found["b.weight"].disposition.method == "linear"


def test_a_recipe_says_itself_what_is_an_embedding() -> None:
    models = pair(
        {"a.table": WEIGHT, "model.embed_tokens.weight": WEIGHT},
        {"a.table": WEIGHT, "model.embed_tokens.weight": WEIGHT},
    )
    found = decided(*models, merge_method="iso_c", embedding_patterns=["*.table"])
    assert found["a.table"].disposition.method == "linear"
    assert found["model.embed_tokens.weight"].disposition.method == "iso_c"


def test_an_embedding_pattern_of_the_recipes_own_that_matches_nothing_is_an_error() -> None:
    tensors = {"model.embed_tokens.weight": WEIGHT}
    with pytest.raises(
        RecipeError, match=r"\(embedding_patterns\[1\]\): matches no tensor of any model\n.*begin one with \*"
    ):
        decided(*pair(tensors, tensors), embedding_patterns=["*lm_head*", "embed_tokens.weight"])


MIXTURE = {
    f"model.layers.{layer}.{name}": WEIGHT
    for layer in range(3)
    for name in ("mlp.experts.0.up_proj.weight", "mlp.gate.weight", "mlp.shared_experts.up_proj.weight", "norm.weight")
}


def test_a_rule_selects_tensors_by_kind_and_layer() -> None:
    rules = [
        {"kind": "routed_experts", "layer_range": [1, 3], "keep": "one"},
        {"kind": ["router", "shared_experts"], "match": "*.layers.0.*", "keep": "base"},
        {"match": "*", "merge_method": "linear", "models": ["base", "two"]},
    ]
    models = (model("/base", MIXTURE), model("/one", MIXTURE), model("/two", MIXTURE))
    found = {name: decision.disposition for name, decision in decided(*models, rules=rules).items()}
    one = {name for name, entry in found.items() if entry.source == 1}
    assert one == {f"model.layers.{layer}.mlp.experts.0.up_proj.weight" for layer in (1, 2)}
    copied = {name for name, entry in found.items() if entry.kind == "copied"}
    assert copied - one == {f"model.layers.0.mlp.{name}.weight" for name in ("gate", "shared_experts.up_proj")}
    average = found["model.layers.1.norm.weight"]
    assert (average.method, average.models) == ("linear", (0, 2))
    assert average.parameters == {"weight": [1.0], "base_weight": 1.0, "normalize": True}


def test_a_kind_that_no_model_has_is_an_error_that_says_where_kinds_are_listed() -> None:
    with pytest.raises(RecipeError, match=r"rules\[0\].kind\): no model has mtp or router\n.*docs/mixtures.md"):
        decided(*pair(PLAIN, PLAIN), rules=[{"kind": ["mtp", "router"], "keep": "base"}])
    models = (model("/base", MIXTURE), model("/one", MIXTURE))
    with pytest.raises(RecipeError, match="no model has router under these names and in these layers"):
        decided(*models, rules=[{"kind": "router", "layer_range": [7, 9], "keep": "base"}])
    assert decided(*pair(PLAIN, PLAIN), rules=[{"kind": "mtp", "keep": "none", "optional": True}])


def test_of_a_kind_in_the_shadow_of_another_rule_the_error_names_that_one() -> None:
    rules = [{"kind": "router", "keep": "base"}, {"match": "*gate*", "kind": "router", "keep": "none"}]
    with pytest.raises(RecipeError, match=r"every tensor that this rule matches is taken by rules\[0\]"):
        decided(model("/base", MIXTURE), model("/one", MIXTURE), rules=rules)


def test_what_is_kept_from_none_is_left_out_whoever_has_it() -> None:
    found = decided(*pair(PLAIN, PLAIN), rules=[{"match": "a.*", "keep": "none"}])
    assert (found["a.weight"].disposition.kind, found["a.weight"].disposition.reason) == (
        "left_out", "left out by rules[0]"
    )  # fmt: skip
    assert found["a.weight"].spec is None
    assert found["b.weight"].disposition.kind == "merged"
