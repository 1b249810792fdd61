"""A recipe without what mergekit ignores: each of these keys is left out here and named in a warning.

An unknown key is an error in a recipe of svc_dist's. A recipe that mergekit runs may hold keys and parameters without
effect: svc_dist runs it too, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from svc_dist.errors import RecipeError, Warned
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.mergekit.notes import Notes
from svc_dist.recipe.mergekit.parameters import MERGEKIT_METHODS, REQUIRED, Reader, typo
from svc_dist.recipe.mergekit.references import model_text
from svc_dist.recipe.mergekit.typos import meant
from svc_dist.recipe.origin import KeyPath, Origin
from svc_dist.recipe.schema import ModelEntry, Recipe

#: Keys of a recipe that mergekit reads.
_MERGEKITS = (
    "models", "slices", "modules", "merge_method", "base_model", "dtype", "out_dtype", "tokenizer_source", "tokenizer",
    "chat_template", "parameters",
)  # fmt: skip

#: The keys that a mapping may have, by what it is.
_KNOWN = {
    "recipe": tuple(dict.fromkeys([*_MERGEKITS, *(one.alias or name for name, one in Recipe.model_fields.items())])),
    "model": tuple(ModelEntry.model_fields),
    "module": ("models", "slices", "parameters"),
    "slice": ("sources", "base_model", "parameters"),
    "source": ("model", "layer_range", "parameters"),
    "tokenizer": ("source", "tokens", "pad_to_multiple_of"),
}

#: The keys of which one says what is merged.
_MERGED = ("models", "slices", "modules")
#: Keys without a value say nothing.
_OPTIONAL = frozenset(_MERGEKITS) - {"merge_method"}

_PARAMETERS = frozenset(parameter.name for method in METHODS.values() for parameter in method.all_parameters)
_BY_MODEL = {
    **dict.fromkeys(("lora", "adapter", "peft"), "to merge an adapter, write `model: MODEL+ADAPTER`"),
    "revision": "for a revision, write `model: OWNER/NAME@REVISION`",
    "layer_range": "layers are chosen under `slices`",
}

_SEED = "for other random draws, write `parameters: {seed: 1}`"

#: What to write in place of keys that mergekit ignores, by what they stand in.
_INSTEAD = {
    "recipe": {
        **dict.fromkeys(("output", "output_dir", "output_path", "out_path"), "the command line names the output"),
        **dict.fromkeys(("seed", "random_seed"), _SEED),
        "layer_range": _BY_MODEL["layer_range"],
        "input_model_parameters": "parameters of a model belong to its entry under `models`",
    },
    "model": _BY_MODEL,
    "source": _BY_MODEL,
}


def without_ignored(data: Mapping[str, Any], origin: Origin) -> tuple[dict[str, Any], tuple[Warned, ...]]:
    """The recipe without what mergekit ignores, models as text, and the warnings about what is left out.

    What mergekit stops at is left in, and so are typos of keys that only svc_dist has: they are errors.
    """
    method = data.get("merge_method")
    if not isinstance(method, str) or method not in MERGEKIT_METHODS:
        return dict(data), ()
    notes = Notes()
    own = {key for key in _KNOWN["recipe"] if not _is_place("recipe", key, data.get(key))} - set(_MERGEKITS)
    reader = Reader(method, not own & set(data), notes, origin)
    cleaned = _Cleaning(reader, model_text(data.get("base_model"))).recipe(data)
    return cleaned, tuple(notes.warnings(origin))


def _is_place(what: str, key: Any, value: Any) -> bool:
    """Whether a key that svc_dist has too is, by its value, the folder that other programs write to."""
    return what == "recipe" and key == "output" and value not in (None, "model", "adapter")


def _is_empty(key: str, value: Any, given: Mapping[str, Any]) -> bool:
    """Whether a key says nothing: a key without a value, or no models where another key says what is merged."""
    if key in _MERGED:
        return not value and any(given.get(other) for other in _MERGED)
    return key in _OPTIONAL and (value is None or (key == "chat_template" and value == ""))


@dataclass(frozen=True)
class _Cleaning:
    """Leaves out what mergekit ignores, mapping by mapping. ``base``: the base as text; ``around``: the parameters that
    hold for all models of a mapping."""

    reader: Reader
    base: Any
    around: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, data: Mapping[str, Any]) -> dict[str, Any]:
        kept = self._known("recipe", data, ())
        for key in ("base_model", "tokenizer_source"):
            if key in kept:
                kept[key] = model_text(kept[key])
        if isinstance(kept.get("tokenizer"), Mapping):
            kept["tokenizer"] = self._known("tokenizer", kept["tokenizer"], ("tokenizer",))
            if "source" in kept["tokenizer"]:
                kept["tokenizer"]["source"] = model_text(kept["tokenizer"]["source"])
        inner = self._inside(kept, ())
        if isinstance(kept.get("modules"), Mapping):
            kept["modules"] = {
                name: inner._module(one, ("modules", name)) if isinstance(one, Mapping) else one
                for name, one in kept["modules"].items()
            }
        return inner._entries(kept, ())

    def _module(self, module: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
        kept = self._known("module", module, path)
        return self._inside(kept, path)._entries(kept, path)

    def _entries(self, kept: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """``kept`` with the models and slices in it cleaned."""
        if "models" in kept:
            kept["models"] = self._models("model", kept["models"], (*path, "models"))
        if isinstance(kept.get("slices"), list):
            kept["slices"] = [
                self._slice(one, (*path, "slices", number)) if isinstance(one, Mapping) else one
                for number, one in enumerate(kept["slices"])
            ]
        return kept

    def _slice(self, one: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
        kept = self._known("slice", one, path)
        if "base_model" in kept:
            kept["base_model"] = model_text(kept["base_model"])
        if "sources" in kept:
            kept["sources"] = self._inside(kept, path)._models("source", kept["sources"], (*path, "sources"))
        return kept

    def _models(self, what: str, models: Any, path: KeyPath) -> Any:
        return [self._model(what, one, (*path, number)) for number, one in enumerate(_list(models))] or models

    def _model(self, what: str, entry: Any, path: KeyPath) -> Any:
        if not isinstance(entry, Mapping):
            return entry
        kept = self._known(what, entry, path)
        if "model" in kept:
            kept["model"] = model_text(kept["model"])
        if isinstance(kept.get("parameters"), Mapping):
            if self._is_base(kept):  # one warning will say that they have no effect
                kept["parameters"] = self.reader.of_base(kept["parameters"])
            else:
                its = (*path, "parameters")
                kept["parameters"] = self.reader.of_one(kept["parameters"], its, self.around)
        return kept

    def _inside(self, kept: dict[str, Any], path: KeyPath) -> _Cleaning:
        """For what is in ``kept``, whose ``parameters`` are cleaned here: they hold for all models in it."""
        if not isinstance(kept.get("parameters"), Mapping):
            return self
        models = list(self._settings(kept))
        kept["parameters"] = self.reader.of_all(kept["parameters"], (*path, "parameters"), self.around, models)
        return replace(self, around={**self.around, **kept["parameters"]})

    def _settings(self, kept: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The parameters of each model in a mapping that takes part in the merge."""
        for key in ("models", "sources"):
            for entry in _list(kept.get(key)):
                if isinstance(entry, Mapping) and not self._is_base(entry):
                    yield _parameters(entry)
        modules = kept.get("modules")
        for inner in (*_list(kept.get("slices")), *(modules.values() if isinstance(modules, Mapping) else ())):
            if isinstance(inner, Mapping):
                yield from ({**_parameters(inner), **own} for own in self._settings(inner))

    def _is_base(self, entry: Mapping[str, Any]) -> bool:
        """Whether a model is the base, and takes no part in the merge with parameters of its own."""
        base = METHODS[self.reader.method].base == "origin" and "model" in entry
        return base and model_text(entry["model"]) == self.base

    def _known(self, what: str, given: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
        """The keys that ``what`` may have, without those that say nothing, and those that must be errors."""
        kept: dict[str, Any] = {}
        for key, value in given.items():
            if key in _KNOWN[what] and not _is_place(what, key, value):
                if not _is_empty(key, value, given):
                    kept[key] = value
            elif not isinstance(key, str) or not self._ignored(what, key, given, (*path, key)):
                kept[key] = value
        return kept

    def _ignored(self, what: str, key: str, given: Mapping[str, Any], path: KeyPath) -> bool:
        """Whether mergekit ignores a key; then it is noted."""
        if self.reader.origin.is_outside(path):
            return False
        instead = _INSTEAD.get(what, {}).get(key)
        if instead == _SEED and self.reader.takes("seed") is None:
            instead = None
        real = None if instead else meant(key, [one for one in _KNOWN[what] if one not in given])
        if real is not None:
            if not self.reader.theirs or real not in _MERGEKITS or self._stops(real, given):
                return False
            self.reader.notes.add(path, typo(real), code="typo")
            return True
        if key in _PARAMETERS:
            if self._needs(key, given):
                where = self.reader.origin.at(*path)
                raise RecipeError(
                    f"{where}: '{key}' is a parameter, not a key",
                    f"write parameters: {{{key}: ...}}",
                    code="unknown-key",
                )
            if self.reader.takes(key) is not None:
                instead = "it is a parameter: to give it effect, write it under `parameters`"
        elif key in _MERGEKITS:
            instead = "it is a key of the recipe: to give it effect, write it at the top level"
        text = (
            "mergekit ignores {names} here, and so does svc_dist"
            if instead
            else "mergekit ignores {names}, and so does svc_dist"
        )
        self.reader.notes.add(path, f"{text}; {instead}" if instead else text, code="key-ignored")
        return True

    def _stops(self, key: str, given: Mapping[str, Any]) -> bool:
        """Whether mergekit stops without a key that ``given`` does not have."""
        if key == "parameters":
            return any(self._needs(name, given) for name in REQUIRED)
        if key == "base_model":
            return METHODS[self.reader.method].base == "origin"
        return key == "models" and not (given.get("slices") or given.get("modules"))

    def _needs(self, name: str, given: Mapping[str, Any]) -> bool:
        """Whether mergekit stops because a model in ``given``, or that is ``given``, has no such parameter."""
        around = {**self.around, **_parameters(given)}
        return not self._is_base(given) and any(
            self.reader.needs(name, around, own) for own in list(self._settings(given)) or [{}]
        )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _parameters(given: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = given.get("parameters")
    return parameters if isinstance(parameters, Mapping) else {}
