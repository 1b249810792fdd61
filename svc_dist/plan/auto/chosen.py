"""A recipe with the merge method and the calibration that ``auto`` stands for."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from svc_dist.checkpoint.adapters.adapter import Expert
from svc_dist.errors import RecipeError, Warned, warned
from svc_dist.methods.auto.choice import AutoChoice, choose
from svc_dist.plan.inputs import PlannedModel
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.sizes import format_size
from svc_dist.storage.access import DOCUMENT

_COLUMNS, _INDENT = 80, "    "
#: What selects a row of the tables: for a calibration alone, and for a merge method with its calibration.
_DECIDED_BY = ("the merge method, its lambda and the number of experts", "the number and the kind of the experts")


def with_choice(
    recipe: ResolvedRecipe, models: Sequence[PlannedModel], base: Expert, experts: Sequence[Expert]
) -> tuple[ResolvedRecipe, AutoChoice | None]:
    """The recipe with chosen keys in place of ``auto``, and the choice; one without ``auto`` as it is.

    The choice is the one that was recorded for the run that the merge resumes, if nothing that it depends on has
    changed; else the experts are sampled. Raises RecipeError, DamagedInputError, StorageError.
    """
    request = recipe.auto
    if request is None:
        return recipe, None
    choice = request.recorded_for(models)
    if choice is None:
        _require_made(recipe)
        from svc_dist.plan.auto.sample import sampled_features

        scale = recipe.results[0].default.parameters.get("lambda", 1.0)
        features = sampled_features(recipe, models, base, experts)
        choice = choose(request.asked, features, scale if isinstance(scale, float) else 1.0)
    return recipe.chosen(choice.keys), choice


def _require_made(recipe: ResolvedRecipe) -> None:
    """Raise RecipeError where a model is made by another document of the recipe, and is not there yet."""
    made = next((model.location for model in recipe.models if DOCUMENT in model.location), None)
    if made is not None:
        where = "merge_method" if recipe.auto is None else recipe.auto.where
        raise RecipeError(
            f"{recipe.origin.at(where)}: auto looks at weights when the merge is planned, but the document "
            f"'{made.partition(DOCUMENT)[2].partition('+')[0]}' makes {made} only afterwards",
            f"name a {'calibration' if where == 'calibrate' else 'merge method'} here, or write this document to a "
            "recipe of its own and merge it afterwards",
            code="auto-refused",
        )


def auto_warnings(recipe: ResolvedRecipe, choice: AutoChoice | None) -> Iterator[Warned]:
    """That ``auto`` is experimental, and what it chose."""
    if choice is not None:
        where = recipe.origin.at("merge_method" if "merge_method" in choice.keys else "calibrate")
        yield warned(
            "auto-experimental",
            f"{where}: auto is experimental: it chose {choice.what}; compare the merge with another one on data of "
            "your own",
        )


def choice_sentences(choice: AutoChoice | None) -> Iterator[str]:
    """What ``auto`` chose, why, and what the experts' sample shows; nothing for a recipe without ``auto``."""
    if choice is None:
        return
    found = choice.features
    matrices = "1 matrix" if found.tensors == 1 else f"{found.tensors} matrices"
    norms = sorted(found.norms)
    sizes = f"{norms[0]:.3g}" if norms[0] == norms[-1] else f"{norms[0]:.3g} to {norms[-1]:.3g}"
    yield f"auto chose {choice.what}, {choice.why}"
    yield (
        f"{_DECIDED_BY['merge_method' in choice.keys]} decide; for information, from {format_size(found.bytes_read)} "
        f"of {matrices}: the plain sum counts what the experts learned {found.times:.3g} times, mean cosine "
        f"{found.cosine:.3g}, {found.changed:.1%} of the entries changed, effective rank {found.rank:.1%} of the "
        f"largest possible, deltas {sizes} of the base's norm"
    )


def choice_lines(choice: AutoChoice | None) -> Iterator[str]:
    """The same for a terminal, and the keys to paste, as lines that do not wrap."""
    if choice is None:
        return
    for number, sentence in enumerate(choice_sentences(choice)):
        first = _INDENT if number else ""
        yield from textwrap.wrap(
            sentence, _COLUMNS, initial_indent=first, subsequent_indent=_INDENT, break_on_hyphens=False
        )
    yield f"{_INDENT}to fix the choice, write these keys into the recipe:"
    yield from (f"{_INDENT * 2}{line}" for line in choice.yaml)


def choice_markdown(choice: AutoChoice | None) -> str:
    """The same for a page in Markdown; empty for a recipe without ``auto``."""
    if choice is None:
        return ""
    said = "".join(f"\n{sentence}.\n" for sentence in choice_sentences(choice))
    return f"{said}\nThe keys in its place:\n\n```yaml\n{chr(10).join(choice.yaml)}\n```\n"
