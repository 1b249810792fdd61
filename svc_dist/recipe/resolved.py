"""A recipe made ready: everything that planning and running ask of it, resolved once when it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.choices import KeepChoice, MergeChoice, ResultChoices, resolve_results
from svc_dist.recipe.completion import find_method
from svc_dist.recipe.locations import RecipeModel, Rename, model_number, resolve_models, resolve_renames
from svc_dist.recipe.mergekit import WITHOUT_EFFECT, all_parameters, warnings
from svc_dist.recipe.origin import UNNAMED, Origin
from svc_dist.recipe.schema import Recipe, Vocab
from svc_dist.recipe.varying import filters
from svc_dist.sizes import parse_size
from svc_dist.storage.access import DEFAULT_ACCESS, Access, ClientOptions
from svc_dist.storage.open import split_location


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
        return [
            part for model in self.models for part in split_location(model.location, self.access) if part is not None
        ]

    def with_access(self, access: Access) -> ResolvedRecipe:
        """Storages reached by ``access``, except where the recipe gives options of its own."""
        return replace(self, access=_combined(self.access, access))

    def with_shard_size(self, size: str | int) -> ResolvedRecipe:
        """The same with another ``max_shard_size``. Raises RecipeError."""
        largest = parse_size(size)
        return replace(self, max_shard_size=largest, plain={**self.plain, "max_shard_size": largest})


def resolve(recipe: Recipe, origin: Origin, folder: Path, access: Access) -> ResolvedRecipe:
    """Resolve everything that a recipe leaves to names, defaults and relative paths. Raises RecipeError.

    Relative paths are relative to ``folder``. ``access``: how storages are reached where the recipe does not say.
    """
    method = find_method(recipe.merge_method, origin.at("merge_method"))
    if recipe.base_model is None and method.name != "linear":
        raise RecipeError(f"{origin.at()}: merge_method {method.name} needs base_model")
    own = Access({prefix: ClientOptions(**dict(options)) for prefix, options in recipe.storage.items()})
    models = resolve_models(recipe, origin, folder, _combined(own, access))
    results = resolve_results(recipe, models, origin)
    config, tokenizer, tokenizer_where = recipe.config_source, recipe.tokenizer_source, origin.at("tokenizer_source")
    if recipe.tokenizer is not None:
        tokenizer, tokenizer_where = recipe.tokenizer.source, origin.at("tokenizer", "source")
    config_source = None if config is None else model_number(config, models, origin.at("config_source"))
    tokenizer_source = None if tokenizer is None else model_number(tokenizer, models, tokenizer_where)
    sources = {"tokenizer_source": (tokenizer, tokenizer_source), "config_source": (config, config_source)}
    resolved = ResolvedRecipe(
        models=models,
        results=results,
        rules=tuple(Rule(tuple(rule.match), rule.vocab, rule.optional) for rule in recipe.rules),
        renames=resolve_renames(recipe.rename, origin, "rename"),
        embedding_patterns=tuple(recipe.embedding_patterns),
        vocab="base" if tokenizer == "base" else recipe.vocab,  # mergekit's way to ask for the base's rows
        has_base_model=recipe.base_model is not None,
        config_source=config_source,
        tokenizer_source=tokenizer_source,
        tokenizer_where=tokenizer_where,
        chat_template=recipe.chat_template,
        dtype=recipe.out_dtype or recipe.dtype,
        max_shard_size=parse_size(recipe.max_shard_size),
        plain=_plain(recipe, models, results[0].rules, sources),
        access=own,
        filters=tuple(
            (origin.at(*path, name), part)
            for path, parameters in all_parameters(recipe)
            for name in parameters
            if name not in WITHOUT_EFFECT
            for part in filters(parameters[name])
        ),
        warnings=(*_unused(recipe, results, origin), *warnings(recipe, models[0].position, origin)),
        origin=origin,
    )
    return resolved.with_access(access)


def _combined(own: Access, others: Access) -> Access:
    """``others``, except where the recipe's own options say something else."""
    options = {
        prefix: given.over(others.options[prefix]) if prefix in others.options else given
        for prefix, given in own.options.items()
    }
    return replace(others, options={**others.options, **options})


def _plain(
    recipe: Recipe,
    models: Sequence[RecipeModel],
    rules: Sequence[MergeChoice | KeepChoice],
    sources: Mapping[str, tuple[str | None, int | None]],
) -> dict[str, Any]:
    """The recipe as plain data with locations in place of names and relative paths."""
    locations = {model.position: model.location for model in models}
    data = recipe.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"storage", "tokenizer"})
    data["base_model"] = models[0].location
    for position, entry in enumerate(data["models"]):
        entry["model"] = locations[position]
    for rule, choice in zip(data["rules"], rules, strict=True):
        if isinstance(choice, KeepChoice) and rule["keep"] not in ("base", "owner"):
            rule["keep"] = models[choice.source or 0].location
    for key, (name, number) in sources.items():
        if number is not None:
            data[key] = "base" if name == "base" else models[number].location
    data["max_shard_size"] = parse_size(recipe.max_shard_size)
    return data


def _unused(recipe: Recipe, results: Sequence[ResultChoices], origin: Origin) -> Iterator[str]:
    """What a recipe says without effect."""
    methods = [METHODS[choice.method] for result in results for choice in result.merges]
    if "fallback" in recipe.model_fields_set and all(method.family == "elementwise" for method in methods):
        yield f"{origin.at('fallback')}: has no effect: {recipe.merge_method} merges every tensor"
