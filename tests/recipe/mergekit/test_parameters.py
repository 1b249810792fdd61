"""What mergekit's methods read of ``parameters``."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.methods.registry import METHODS
from svc_dist.recipe.mergekit.notes import Notes
from svc_dist.recipe.mergekit.parameters import MERGEKIT_METHODS, Reader
from svc_dist.recipe.origin import UNNAMED
from tests.support.recipes import chosen, resolved


def reader(method: str) -> tuple[Reader, Notes]:
    notes = Notes()
    return Reader(method, True, notes, UNNAMED), notes


def test_every_method_of_mergekit_is_one_of_svc_dist() -> None:
    assert set(METHODS) >= MERGEKIT_METHODS
    assert len(MERGEKIT_METHODS) == 20


@pytest.mark.parametrize(
    ("method", "given", "kept", "said"),
    [
        ("sce", {"weight": 1, "select_topk": 0.1}, {"select_topk": 0.1}, "sce takes no 'weight'"),
        ("sce", {"lambda": 1.0}, {}, None),
        ("sce", {"lambda": 0.5}, {}, "mergekit's sce takes no 'lambda': svc_dist ignores it too"),
        ("ties", {"lambda": 0.5}, {"lambda": 0.5}, None),
        ("dare_ties", {"seed": 3}, {"seed": 3}, None),
        ("multislerp", {"normalize": True}, {}, "the parameter of multislerp is `normalize_weights`"),
        ("task_arithmetic", {"density": 0.5}, {}, "to drop entries, merge by ties or dare_linear"),
        ("slerp", {"embed_slerp": True, "int_space": False, "t": 1}, {"t": 1}, "no 'embed_slerp' and 'int_space'"),
        ("slerp", {"wieght": 1, "t": 1}, {"t": 1}, "slerp takes no 'wieght'"),
        ("model_stock", {"filter_wise": True}, {"filter_wise": True}, None),
    ],
)  # fmt: skip
def test_parameters_for_all_models(method: str, given: dict[str, Any], kept: dict[str, Any], said: str | None) -> None:
    reading, notes = reader(method)
    assert reading.of_all(given, ("parameters",), {}, []) == kept
    warnings = list(notes.warnings(UNNAMED))
    assert said in warnings[0] if said else not warnings


@pytest.mark.parametrize(
    ("given", "around", "kept", "said"),
    [
        ({"weight": 1, "normalize": True}, {}, {"weight": 1}, None),  # the default
        ({"weight": 1, "normalize": False}, {}, {"weight": 1}, "ties has one 'normalize' for all models"),
        ({"weight": 1, "lambda": 0.5}, {"lambda": 0.5}, {"weight": 1}, None),
        ({"weight": 1, "lambda": 0.5}, {"lambda": 0.4}, {"weight": 1}, "ties has one 'lambda' for all models"),
        ({"wieght": 1}, {"weight": 1}, {}, "'wieght' is probably a typo of 'weight'"),
        ({"wieght": 1}, {}, {"wieght": 1}, None),  # an error
    ],
)
def test_parameters_of_one_model(
    given: dict[str, Any], around: dict[str, Any], kept: dict[str, Any], said: str | None
) -> None:
    reading, notes = reader("ties")
    assert reading.of_one(given, ("models", 0, "parameters"), around) == kept
    warnings = list(notes.warnings(UNNAMED))
    assert said in warnings[0] if said else not warnings


def test_a_rule_scales_where_mergekit_has_no_lambda() -> None:
    text = "merge_method: sce\nbase_model: base\nmodels: [{model: one}]\nparameters: {lambda: 0.5}\n"
    assert chosen(text).default.parameters["lambda"] == 1.0
    (warning,) = resolved(text).warnings
    rule = warning.partition("write ")[2].removesuffix(" [lambda-ignored]")
    assert chosen(text + rule).rules[0].parameters["lambda"] == 0.5  # type: ignore[union-attr]
