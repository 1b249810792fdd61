"""The condition under which a recipe, a rule or an output merges a tensor."""

from __future__ import annotations

from svc_dist.errors import RecipeError
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.origin import Origin
from svc_dist.recipe.rules.keys import OnlyWhere

_CODE = "only-where-refused"


def least_difference(
    method: str,
    models: tuple[int, ...] | None,
    given: OnlyWhere | None,
    recipes: OnlyWhere | None,
    origin: Origin,
    *path: str | int,
) -> float | None:
    """The relative difference that tensors must exceed by the condition ``given`` at ``path``, or else the recipe's.

    ``models``: the numbers of the base and of the experts, None for all. One model that passes through alone differs
    from no base: the recipe's condition is not for it, and one of its own is an error. Raises RecipeError.
    """
    condition = recipes if given is None else given
    least = None if condition is None else condition.relative_difference
    alone = METHODS[method].base == "none" or (models is not None and models[0] in models[1:])
    if least is None or not alone:
        return least
    if given is None:
        return None
    raise RecipeError(
        f"{origin.at(*path)}: one model passes through alone, so that there is no base from which it could differ",
        "merge_method: task_arithmetic with one of `models` takes that model over the base",
        code=_CODE,
    )


def refuse_condition_of_adapter(asked: bool, origin: Origin) -> None:
    """Raise RecipeError where an adapter is written under a condition: it may be made without reading the base."""
    if asked:
        raise RecipeError(
            f"{origin.at('only_where')}: an adapter is written for every tensor that experts change",
            "write a model (without `output: adapter`), or select tensors by rules: {match: ..., keep: base}",
            code=_CODE,
        )
