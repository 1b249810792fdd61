"""The recipe that makes an adapter of the difference between two models: the short form of ``svc-dist extract``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def extraction_recipe(
    base: str,
    model: str,
    rank: int,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    save: Sequence[str] = (),
    dtype: str | None = None,
    untie: bool = False,
) -> dict[str, Any]:
    """The data of a recipe that writes ``model`` minus ``base`` as an adapter of a rank.

    By patterns of tensors' names: ``save`` are saved whole; ``exclude`` are left as in the base, and so are all others
    where there are some to ``include``. ``untie``: a tied output head gets a pair of its own.
    """
    rules: list[dict[str, Any]] = []
    if save:
        rules.append({"match": list(save), "rank": "full"})
    if exclude:
        rules.append({"match": list(exclude), "keep": "base"})
    if include:
        rules += [{"match": list(include), "rank": rank}, {"match": "*", "keep": "base", "optional": True}]
    recipe: dict[str, Any] = {
        "base_model": base,
        "models": [{"model": model}],
        "merge_method": "task_arithmetic",
        "output": "adapter",
        "rank": rank,
    }
    if untie:
        recipe["untie"] = True
    if rules:
        recipe["rules"] = rules
    return recipe if dtype is None else recipe | {"dtype": dtype}
