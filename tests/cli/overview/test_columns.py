"""Rows of text with their columns below each other."""

from __future__ import annotations

from svc_dist.cli.overview.columns import aligned


def test_columns_are_as_wide_as_their_longest_cell_and_empty_ones_are_left_out() -> None:
    rows = [("", "weight", "rank", "model"), ("base", "", "", "a"), ("expert 1", "0.4", "", "long name")]
    assert aligned(rows) == ["          weight  model", "base              a", "expert 1  0.4     long name"]
