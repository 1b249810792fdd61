"""The keys of a recipe that writes an adapter, and which keys do not go together with it."""

from __future__ import annotations

from svc_dist.errors import RecipeError
from svc_dist.recipe.origin import Origin
from svc_dist.recipe.schema import Recipe


def adapter_rank(recipe: Recipe, origin: Origin) -> int | None:
    """The largest rank of an adapter's pairs; None for any. Raises RecipeError for keys that do not go together."""
    if recipe.output != "adapter":
        given: list[tuple[str | int, ...]] = [] if recipe.rank is None else [("rank",)]
        given += [("rules", index, "rank") for index, rule in enumerate(recipe.rules) if rule.rank is not None]
        if given:
            raise RecipeError(
                f"{origin.at(*given[0])}: a rank is that of an adapter, but this recipe writes a model",
                "add `output: adapter`, or remove the key",
                code="adapter-key",
            )
        return None
    if recipe.base_model is None:
        raise RecipeError(
            f"{origin.at('output')}: an adapter changes a base: base_model is missing", code="adapter-key"
        )
    for key in ("config_source", "chat_template"):
        if getattr(recipe, key) is not None:
            raise RecipeError(
                f"{origin.at(key)}: has no effect with `output: adapter`", "remove the key", code="adapter-key"
            )
    return recipe.rank
