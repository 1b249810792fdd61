"""The recipe that a search changes: read once, and made anew for each pass with the trials as its ``outputs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from svc_dist.errors import RecipeError
from svc_dist.recipe.edits.changes import changed
from svc_dist.recipe.evaluation.axes import AxisEntry, as_axes
from svc_dist.recipe.load import recipe_from
from svc_dist.recipe.origin import Origin
from svc_dist.recipe.paths import PathValues, read_text, with_paths
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.recipe.yaml_lines import read_yaml
from svc_dist.scoring.search.space import Space, space_of
from svc_dist.storage.access import Access

#: Keys that are of a search, or that it replaces.
_OWN = ("search", "evaluate", "outputs")
_FORM = "write --over lambda=0.2:1.0 for a range, or --over alpha=0.25,0.5,1 for a list"


class Searched:
    """A recipe's data, with ``changes`` as of ``--set``; one document, without ``outputs``. Raises RecipeError."""

    def __init__(self, recipe: str | Path, changes: Mapping[str, Any], access: Access) -> None:
        self.text, name, self.folder = read_text(recipe, access)
        self.access, self.changes = access, changes
        data, lines = read_yaml(self.text, name)
        data, self.origin = changed(data, changes, Origin(name, lines))
        self.data = with_paths(data, self.origin, self.folder, access, PathValues())
        if isinstance(self.data, Mapping) and self.data.get("outputs"):
            raise RecipeError(
                f"{self.origin.at('outputs')}: a search makes several results of its own",
                "remove the key, and write the values to try under `search`",
                code="search-refused",
            )
        self.recipe = recipe_from(self.data, self.origin, self.folder, access)
        if self.recipe.auto is not None:
            raise RecipeError(
                f"{self.origin.at(self.recipe.auto.where)}: a search tries values of a method and a calibration that "
                "the recipe names",
                "write what `svc-dist plan` says that auto chose in its place, and search from there",
                code="search-refused",
            )

    def with_outputs(self, entries: Sequence[Mapping[str, Any]]) -> ResolvedRecipe:
        """The recipe with these results. Raises RecipeError for values that do not go together."""
        data = {key: value for key, value in self.data.items() if key not in _OWN}
        lines = {path: line for path, line in self.origin.lines.items() if not path or path[0] not in _OWN}
        lines["outputs",] = "values of a trial"
        return recipe_from(
            {**data, "outputs": list(entries)}, replace(self.origin, lines=lines), self.folder, self.access
        )

    def space(self, over: Sequence[str]) -> Space:
        """What is searched: the recipe's ``search``, and what ``--over`` adds or replaces. Raises RecipeError."""
        axes = {key: (entry, self.origin.at("search", key)) for key, entry in self.recipe.search.items()}
        for text in over:
            key, entry = parse_over(text)
            axes[key] = (entry, f"--over {key}")
        return space_of(self.recipe, axes)


def parse_over(text: str) -> tuple[str, AxisEntry]:
    """``KEY=LOW:HIGH``, ``KEY=A,B,C`` or ``KEY={...}`` as an entry of ``search``. Raises RecipeError."""
    key, sign, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not sign or not key or not value:
        raise RecipeError(f"--over {text}: this is not KEY=VALUES", _FORM, code="search-refused")
    if value.startswith(("{", "[")):
        data: Any = read_yaml(value, f"--over {key}")[0]
    elif ":" in value:
        data = {"range": [read_yaml(one, f"--over {key}")[0] for one in value.split(":")]}
    else:
        data = {"grid": [read_yaml(one, f"--over {key}")[0] for one in value.split(",")]}
    try:
        return key, AxisEntry.model_validate(as_axes({key: data})[key])
    except ValidationError as error:
        problem = error.errors()[0]
        at = ".".join(map(str, problem["loc"]))
        why = problem["msg"].removeprefix("Value error, ")
        raise RecipeError(f"--over {key}: {f'{at}: ' if at else ''}{why}", _FORM, code="search-refused") from None
