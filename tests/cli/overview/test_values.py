"""Values of parameters are short and as YAML has them."""

from __future__ import annotations

import pytest

from svc_dist.cli.overview.values import shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (0.30000000000000004, "0.3"), (1e-5, "1e-05"), ("sum", "sum"), (16, "16"),
     ([0.5, 0.5], "0.5"), ([0.5, 1.0], "[0.5, 1]")],
)  # fmt: skip
def test_values_are_short_and_as_yaml_has_them(value: object, text: str) -> None:
    assert shown(value) == text
