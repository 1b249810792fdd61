"""A recipe as planning and running use it: names, defaults and paths resolved once, when it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from svc_dist.checkpoint.adapters.adapter import Use
from svc_dist.errors import RecipeError, Warned
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.adapters.keys import adapter_rank
from svc_dist.recipe.auto.request import AutoRequest, auto_request
from svc_dist.recipe.choices import KeepChoice, MergeChoice, ResultChoices, find_method, resolve_results
from svc_dist.recipe.evaluation.axes import AxisEntry
from svc_dist.recipe.evaluation.entry import EvaluateEntry
from svc_dist.recipe.locations import (
    HubIds,
    RecipeModel,
    Rename,
    hub_ids,
    model_number,
    resolve_models,
    resolve_renames,
)
from svc_dist.recipe.mergekit.parameters import WITHOUT_EFFECT, all_parameters
from svc_dist.recipe.mergekit.warnings import warnings
from svc_dist.recipe.origin import UNNAMED, Origin
from svc_dist.recipe.rules.conditions import refuse_condition_of_adapter
from svc_dist.recipe.rules.keys import RuleEntry
from svc_dist.recipe.rules.subsets import ALONE, takes_the_rest
from svc_dist.recipe.schema import Recipe
from svc_dist.recipe.tokenizer import TokenizerChoice, plain_tokenizer, resolve_tokenizer
from svc_dist.recipe.varying import filters
from svc_dist.sizes import parse_size
from svc_dist.storage.access import DEFAULT_ACCESS, Access, ClientOptions
from svc_dist.storage.open import split_location


@dataclass(frozen=True)
class ResolvedRecipe:
    """What to merge and how, complete: nothing needs the recipe's text again.

    ``models``: the base, then the experts; other fields name a model by its number here. ``results``: the choices for
    each result, at least one. ``rules``: their names of methods and models are resolved in ``results``. ``tokenizer``:
    the result's vocabulary. ``untie``: tied output heads become tensors of their own. ``config_source``: None where the
    recipe names no model. ``dtype``: as in recipes, None for each tensor's dtype in the base. ``plain``: plain data
    with preset and locations resolved, part of a plan's fingerprint. ``documents``: the same of those whose models it
    uses. ``filters``: the line of each filter of a parameter, and the text that a tensor's name must contain.
    ``rank``: the largest of an adapter's pairs. ``warnings``: about keys without effect. ``path_values``: what
    variables and the date in its paths stand for.
    ``evaluate``: the commands that score the result, and ``search``: the values that a search tries, no part of what is
    merged.
    ``text``: as the user wrote it, with what ``--set`` changed in comments; None where it was given as data.
    ``hub_ids``: of paths that may not exist, the hub ids that they mean then; ``hub_models``: the hub ids of locations,
    once these are known.
    ``auto``: what planning has yet to choose; until then ``results`` and ``plain`` hold a stand-in.
    """

    models: tuple[RecipeModel, ...]
    results: tuple[ResultChoices, ...]
    rules: tuple[RuleEntry, ...]
    renames: tuple[Rename, ...]
    embedding_patterns: tuple[str, ...]
    tokenizer: TokenizerChoice
    untie: bool
    has_base_model: bool
    config_source: int | None
    chat_template: str | None
    dtype: str | None
    quantization: str | None
    max_shard_size: int
    plain: Mapping[str, Any]
    documents: tuple[Mapping[str, Any], ...] = ()
    access: Access = field(default=DEFAULT_ACCESS, compare=False)
    output: Literal["model", "adapter"] = "model"
    rank: int | None = None
    filters: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    warnings: tuple[Warned, ...] = field(default=(), compare=False)
    origin: Origin = field(default=UNNAMED, compare=False)
    path_values: Mapping[str, str] = field(default_factory=dict, compare=False)
    evaluate: tuple[EvaluateEntry, ...] = field(default=(), compare=False)
    search: Mapping[str, AxisEntry] = field(default_factory=dict, compare=False)
    text: str | None = field(default=None, compare=False, repr=False)
    hub_ids: HubIds = field(default_factory=dict, compare=False)
    hub_models: Mapping[str, str] = field(default_factory=dict, compare=False)
    auto: AutoRequest | None = field(default=None, compare=False)

    @property
    def locations(self) -> list[str]:
        """Every location that is read: of each model, and of its adapter."""
        return [each for model in self.models for each in split_location(model.location, self.access) if each]

    def use_of(self, location: str) -> Use | None:
        """Which is meant of a model and an adapter in one folder, for one of ``locations``."""
        for model in self.models:
            parts = split_location(model.location, self.access)
            if location in parts:
                either: Use = "model" if location == parts[0] else "adapter"
                return either if parts[1] is not None or model is self.models[0] else model.use
        return None

    def moved(self, locations: Mapping[str, str]) -> ResolvedRecipe:
        """The same recipe with other locations in place of these."""
        if not locations:
            return self
        models = tuple(replace(model, location=_moved(model.location, locations)) for model in self.models)
        tokenizer = replace(self.tokenizer, other=_moved(self.tokenizer.other, locations))
        return replace(self, models=models, tokenizer=tokenizer, plain=_moved(self.plain, locations))

    def with_access(self, access: Access) -> ResolvedRecipe:
        """The same recipe with ``access`` for storages without options in the recipe."""
        return replace(self, access=_combined(self.access, access))

    def with_options(self, options: Mapping[str, ClientOptions]) -> ResolvedRecipe:
        """The same recipe with more options of storages, which come after its own."""
        return replace(self, access=replace(self.access, options={**options, **self.access.options}))

    def named(self, name: str | None, earlier: Sequence[ResolvedRecipe]) -> ResolvedRecipe:
        """The same recipe as one of several, with its name and those whose models it uses, for the record."""
        plain = self.plain if name is None else {"name": name, **self.plain}
        return replace(self, plain=plain, documents=tuple(one.plain for one in earlier))

    def chosen(self, keys: Mapping[str, Any]) -> ResolvedRecipe:
        """The same recipe with keys in place of ``auto``. Raises RecipeError where others do not go with them."""
        assert self.auto is not None
        recipe = self.auto.filled(keys)
        results = resolve_results(recipe, self.models, self.origin)
        return replace(
            self,
            auto=None,
            results=results,
            rules=tuple(recipe.rules),
            plain=self.auto.filled_plain(self.plain, keys),
            warnings=(*self.warnings, *_warnings(recipe, self.models, results, self.origin)),
        )

    def with_shard_size(self, size: str | int) -> ResolvedRecipe:
        """The same recipe with another ``max_shard_size``. Raises RecipeError."""
        largest = parse_size(size)
        return replace(self, max_shard_size=largest, plain={**self.plain, "max_shard_size": largest})


def resolve(
    recipe: Recipe, origin: Origin, folder: Path, access: Access, ignored: Sequence[Warned] = ()
) -> ResolvedRecipe:
    """Resolve a recipe's names, defaults and paths, which are relative to ``folder``. Raises RecipeError.

    ``access``: for storages without options in the recipe; ``ignored``: warnings about keys that were left out.
    """
    auto = auto_request(recipe, origin)
    recipe = recipe if auto is None else auto.stand_in
    method = find_method(recipe.merge_method, origin.at("merge_method"))
    if recipe.base_model is None and method.base == "origin" and not any(map(takes_the_rest, recipe.rules)):
        raise RecipeError(f"{origin.at('merge_method')}: {method.name} needs base_model", code="base-missing")
    options = Access({prefix: ClientOptions(**dict(options)) for prefix, options in recipe.storage.items()})
    access = _combined(options, access)
    models = resolve_models(recipe, origin, folder, access, alone=recipe.base_model is None and method.base in ALONE)
    results = resolve_results(recipe, models, origin)
    if recipe.output == "adapter":
        asked = any(one.least_difference is not None for result in results for one in result.merges)
        refuse_condition_of_adapter(asked, origin)
    config = recipe.config_source
    config_source = None if config is None else model_number(config, models, origin.at("config_source"))
    tokenizer = resolve_tokenizer(recipe, models, origin, folder)
    sources: dict[str, Any] = plain_tokenizer(recipe, tokenizer, models)
    if config_source is not None:
        sources["config_source"] = "base" if config == "base" else models[config_source].location
    return ResolvedRecipe(
        models=models,
        results=results,
        rules=tuple(recipe.rules),
        renames=resolve_renames(recipe.rename, origin, "rename"),
        embedding_patterns=tuple(recipe.embedding_patterns),
        tokenizer=tokenizer,
        untie=recipe.untie,
        has_base_model=recipe.base_model is not None,
        config_source=config_source,
        chat_template=recipe.chat_template,
        dtype=recipe.out_dtype or recipe.dtype,
        quantization=recipe.quantization,
        max_shard_size=int(recipe.max_shard_size),  # validation has parsed it
        plain=_plain(recipe, models, results[0].rules, sources),
        access=access,
        output=recipe.output or "model",
        rank=adapter_rank(recipe, origin),
        filters=tuple(
            (origin.at(*path, name), text)
            for path, parameters in all_parameters(recipe)
            for name in parameters
            if name not in WITHOUT_EFFECT
            for text in filters(parameters[name])
        ),
        warnings=(*ignored, *(() if auto is not None else _warnings(recipe, models, results, origin))),
        origin=origin,
        evaluate=tuple(recipe.evaluate),
        search=recipe.search,
        hub_ids=hub_ids(recipe, origin, folder),
        auto=auto,
    )


def _warnings(
    recipe: Recipe, models: Sequence[RecipeModel], results: Sequence[ResultChoices], origin: Origin
) -> Iterator[Warned]:
    """Warnings that depend on the methods of a recipe."""
    spectral = any(METHODS[one.method].family == "spectral" for result in results for one in result.merges)
    return warnings(recipe, models[0].position, spectral, origin)


def _moved(data: Any, locations: Mapping[str, str]) -> Any:
    """Plain data with other locations in place of these, also where one is half of ``model+adapter``."""
    if isinstance(data, Mapping):
        return {key: _moved(value, locations) for key, value in data.items()}
    if isinstance(data, list):
        return [_moved(value, locations) for value in data]
    for old, new in locations.items() if isinstance(data, str) else ():
        if data == old or data.startswith(f"{old}+"):
            data = new + data[len(old) :]
        elif data.endswith(f"+{old}"):
            data = data[: -len(old)] + new
    return data


def _combined(recipes: Access, access: Access) -> Access:
    """``access`` with the recipe's options over its own."""
    options = {
        prefix: options.over(access.options.get(prefix, ClientOptions())) for prefix, options in recipes.options.items()
    }
    return replace(access, options={**access.options, **options})


def _plain(
    recipe: Recipe,
    models: Sequence[RecipeModel],
    rules: Sequence[MergeChoice | KeepChoice],
    sources: Mapping[str, Any],
) -> dict[str, Any]:
    """The recipe as plain data with locations in place of names and relative paths."""
    data = recipe.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"storage", "tokenizer", "evaluate", "search"}
    )
    data["base_model"] = models[0].location
    for model in models:
        if model.position is not None:
            data["models"][model.position]["model"] = model.location
    for rule, choice in zip(data["rules"], rules, strict=True):
        if isinstance(choice, KeepChoice) and rule["keep"] not in ("base", "owner", "none"):
            rule["keep"] = models[choice.source or 0].location
    return {**data, **sources}
