"""The recipe behind ``svc-dist extract``."""

from __future__ import annotations

from svc_dist.recipe.adapters.extraction import extraction_recipe
from svc_dist.recipe.load import recipe_from


def test_patterns_become_rules() -> None:
    data = extraction_recipe(
        "/b",
        "/m",
        8,
        include=["*_proj.weight"],
        exclude=["*.0.*"],
        save=["lm_head.weight"],
        dtype="bfloat16",
        untie=True,
    )
    assert data["rules"] == [
        {"match": ["lm_head.weight"], "rank": "full"},
        {"match": ["*.0.*"], "keep": "base"},
        {"match": ["*_proj.weight"], "rank": 8},
        {"match": "*", "keep": "base", "optional": True},
    ]
    made = recipe_from(data)
    assert (made.output, made.rank, made.dtype, made.untie) == ("adapter", 8, "bfloat16", True)


def test_without_patterns_there_are_no_rules() -> None:
    assert "rules" not in extraction_recipe("/b", "/m", 8)
