"""A recipe made ready: everything that planning and running ask of it, found once when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from svc_dist.recipe.choices import ResultChoices
from svc_dist.recipe.locations import RecipeModel, Rename
from svc_dist.recipe.origin import UNNAMED, Origin
from svc_dist.recipe.schema import Vocab
from svc_dist.sizes import parse_size
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.base import split_location


@dataclass(frozen=True)
class Rule:
    """Which tensors a rule decides about. What it chooses for them is in each result's choices."""

    match: tuple[str, ...]
    vocab: Vocab | None = None
    optional: bool = False


@dataclass(frozen=True)
class ResolvedRecipe:
    """What to merge and how, complete: nothing in it needs the recipe's text again.

    ``models``: the base, then the experts; other fields name a model by its number here. ``results``: the choices for
    each result, at least one. ``plain``: the recipe as plain data with preset and locations resolved, part of a plan's
    fingerprint. ``filters``: where a filter of a parameter stands, and what must be part of a tensor's name.
    ``vocab``: ``base`` where rows beyond the base's are left out. ``config_source``, ``tokenizer_source``: None where
    the recipe names none; ``tokenizer_where``: where it does. ``dtype``: as written in recipes, None for each tensor's
    own. ``access``: how storages are reached. ``warnings``: about keys without effect.
    """

    models: tuple[RecipeModel, ...]
    results: tuple[ResultChoices, ...]
    rules: tuple[Rule, ...]
    renames: tuple[Rename, ...]
    embedding_patterns: tuple[str, ...]
    vocab: Vocab
    has_base_model: bool
    config_source: int | None
    tokenizer_source: int | None
    chat_template: str | None
    dtype: str | None
    max_shard_size: int
    plain: Mapping[str, Any]
    access: Access = field(default=DEFAULT_ACCESS, compare=False)
    filters: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    tokenizer_where: str = field(default="", compare=False)
    origin: Origin = field(default=UNNAMED, compare=False)

    @property
    def locations(self) -> list[str]:
        """Every location that is read: the base's, and each expert's, of its model and its adapter."""
        return [part for model in self.models for part in split_location(model.location) if part is not None]

    def with_access(self, access: Access) -> ResolvedRecipe:
        """Storages reached by ``access``, except where the recipe gives options of its own."""
        options = {
            prefix: own.over(access.options[prefix]) if prefix in access.options else own
            for prefix, own in self.access.options.items()
        }
        return replace(self, access=replace(access, options={**access.options, **options}))

    def with_shard_size(self, size: str | int) -> ResolvedRecipe:
        """The same with another ``max_shard_size``. Raises RecipeError."""
        largest = parse_size(size)
        return replace(self, max_shard_size=largest, plain={**self.plain, "max_shard_size": largest})
