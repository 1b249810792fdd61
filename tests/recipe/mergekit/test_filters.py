"""Filters that match nothing are named, and patterns are told from parts of names."""

from __future__ import annotations

from svc_dist.recipe.mergekit.filters import unmatched

NAMES = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]


def test_a_filter_that_is_part_of_a_name_needs_no_warning() -> None:
    assert list(unmatched([("r.yaml:1", "mlp"), ("r.yaml:2", "layers.0.")], NAMES)) == []


def test_a_pattern_is_told_to_be_none() -> None:
    filters = [("r.yaml:1 (t)", "self_attn.*(0|1)"), ("r.yaml:1 (t)", ".*mlp.*"), ("r.yaml:1 (t)", "modelnorm")]
    assert list(unmatched(filters, NAMES)) == [
        "r.yaml:1 (t): no tensor's name contains the filters 'self_attn.*(0|1)', '.*mlp.*': a filter is a part of "
        "the name, not a pattern; write 'self_attn' [filter-matches-nothing]",
        "r.yaml:1 (t): no tensor's name contains the filter 'modelnorm' [filter-matches-nothing]",
    ]


def test_filters_of_several_models_are_one_warning() -> None:
    filters = [(f"r:{n}", f"x{n % 4}") for n in range(8)]
    assert list(unmatched(filters, NAMES)) == [
        "r:0 and 7 more: no tensor's name contains the filters 'x0', 'x1', 'x2' and 1 more [filter-matches-nothing]"
    ]
