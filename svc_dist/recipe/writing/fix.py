"""The same recipe in svc_dist's own terms, with a comment above each change."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

from svc_dist.errors import RecipeError
from svc_dist.recipe.load import parse_recipe
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.recipe.writing.json_schema import modeline
from svc_dist.recipe.writing.repairs import Draft, Repair

_MOST = 1000  # changes of one recipe
_START = re.compile(r"^---[ \t]*(?:#.*)?$", re.MULTILINE)
_MODELINE = re.compile(r"^#\s*yaml-language-server:", re.MULTILINE)


@dataclass(frozen=True)
class Fixed:
    """A recipe's new text, and what was changed, a line each. ``left_open``: svc_dist stops at something in it."""

    text: str
    changes: tuple[str, ...]
    left_open: bool = False


def fix(file: Path) -> Fixed:
    """The recipe of a file, changed where its meaning stays the same, or where there was none.

    Raises RecipeError for what is no YAML, and StorageError for a file that cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"cannot read the recipe {file}: {reason}", code="recipe-unreadable") from None
    return fixed(text, str(file), file.absolute().parent)


def fixed(text: str, name: str, folder: Path) -> Fixed:
    """As ``fix``, for a recipe's text; its relative paths are relative to ``folder``."""
    documents = _documents(text)
    changes: list[str] = []
    left_open = False
    for number, document in enumerate(documents):
        draft = Draft(document, name, folder, of_several=len(documents) > 1)
        for _ in range(_MOST):
            meant = _resolved(draft)
            repair = next((one for one in draft.repairs() if one.other_terms or _is_same(meant, draft, one)), None)
            if repair is None:
                break
            draft = replace(draft, text=repair.text)
            changes.append(repair.what)
            left_open = left_open or repair.final
            if repair.final:
                break
        documents[number] = draft.text
    whole = "".join(documents)
    return Fixed(whole if _MODELINE.search(whole) else f"{modeline()}\n{whole}", tuple(changes), left_open)


def _documents(text: str) -> list[str]:
    """The documents of a file, each with the line that begins it."""
    starts = [0, *(match.start() for match in _START.finditer(text) if text[: match.start()].strip()), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(starts)]


def _resolved(draft: Draft) -> ResolvedRecipe | None:
    try:
        return parse_recipe(draft.text, draft.name, draft.folder)
    except RecipeError:
        return None


def _is_same(meant: ResolvedRecipe | None, draft: Draft, repair: Repair) -> bool:
    """Whether a change leaves what a recipe merges; one that svc_dist refuses merges nothing."""
    now = _resolved(replace(draft, text=repair.text))
    return meant is None or (now is not None and _merge(meant) == _merge(now))


def _merge(recipe: ResolvedRecipe) -> ResolvedRecipe:
    """What a recipe says about the result, without how it says it."""
    models = tuple(replace(model, position=None) for model in recipe.models)
    return replace(recipe, models=models, plain={})
