"""The parameters of mergekit's methods: which it reads, and which of a recipe's parameters it ignores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.methods.parameters import Parameter
from svc_dist.methods.registry import METHODS
from svc_dist.recipe.mergekit.notes import Notes
from svc_dist.recipe.mergekit.typos import meant
from svc_dist.recipe.origin import KeyPath, Origin
from svc_dist.recipe.schema import Recipe

#: Parameters that are accepted for every method, without a word: masks take no memory in svc_dist.
WITHOUT_EFFECT = frozenset(("int8_mask",))

#: mergekit's methods that scale the merged delta.
_SCALED = frozenset((
    "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear",
))  # fmt: skip

#: mergekit's methods.
MERGEKIT_METHODS = _SCALED | {
    "linear", "slerp", "nuslerp", "multislerp", "karcher", "passthrough", "model_stock", "sce", "nearswap",
    "arcee_fusion", "ram", "ramplus_tl",
}  # fmt: skip

#: Parameters that mergekit asks for.
REQUIRED = ("weight", "t")

_MISPLACED = (
    "{method} has one {{names}} for all models: mergekit ignores {{them}} here, and so does svc_dist; write {{them}} "
    "under the top-level parameters"
)
_LAMBDA = (
    "mergekit's {method} takes no {{names}}: svc_dist ignores {{them}} too; to scale the merged delta all the same, "
    "write rules: [{{match: '*', parameters: {{lambda: 0.5}}}}]"
)
_KEYS = ("dtype", "out_dtype", "base_model", "merge_method", "tokenizer_source", "chat_template")
_TOP = "it is a key of the recipe, not a parameter: write it at the top level"

#: What to write in place of parameters that a method does not take.
_INSTEAD = {
    ("multislerp", "normalize"): "the parameter of multislerp is `normalize_weights`",
    ("task_arithmetic", "density"): "to drop entries, merge by ties or dare_linear",
}


def all_parameters(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """Every ``parameters`` of a recipe, with the path at which it stands."""
    yield ("parameters",), recipe.parameters
    for n, entry in enumerate(recipe.models):
        yield ("models", n, "parameters"), entry.parameters
    yield ("fallback", "parameters"), recipe.fallback.get("parameters", {})
    for n, rule in enumerate(recipe.rules):
        yield ("rules", n, "parameters"), rule.parameters
        for m, one in enumerate(rule.models or ()):
            yield ("rules", n, "models", m, "parameters"), one.parameters
    for n, output in enumerate(recipe.outputs):
        yield ("outputs", n, "parameters"), output.parameters


@dataclass(frozen=True)
class Reader:
    """Reads ``parameters`` as mergekit does for a method, and notes what it ignores.

    ``theirs``: the recipe has no key of svc_dist's own, so that mergekit could run it.
    """

    method: str
    theirs: bool
    notes: Notes
    origin: Origin

    def takes(self, name: str) -> Parameter | None:
        """The parameter of this name, if mergekit's method has it; svc_dist's ``seed`` counts too."""
        return None if name == "lambda" and self.method not in _SCALED else METHODS[self.method].parameter(name)

    def needs(self, name: str, *given: Mapping[str, Any]) -> bool:
        """Whether mergekit stops because none of the ``given`` settings has the parameter."""
        return name in REQUIRED and self.takes(name) is not None and not any(name in settings for settings in given)

    def of_all(
        self, given: Mapping[str, Any], path: KeyPath, around: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The parameters at ``path``, for all models, without those that mergekit ignores.

        ``around``: settings that hold where these have none; ``models``: the settings of each model.
        """
        known = [name for name in _names(self.method) if self.takes(name) is not None]
        missing = [{**around, **own} for own in models] or [dict(around)]
        return self._read(given, path, known, missing)

    def of_one(self, given: Mapping[str, Any], path: KeyPath, around: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters at ``path``, of one model, without those that mergekit ignores.

        ``around``: settings for all models.
        """
        known = [name for name in _names(self.method) if (one := self.takes(name)) is not None and one.per_model]
        kept = self._read(given, path, known, [around])
        for name, value in given.items():
            common = None if name in known else self.takes(name)
            if common is None or name in kept:
                continue
            if value != around.get(name, common.default):
                self.notes.add((*path, name), _MISPLACED.format(method=self.method), code="parameter-misplaced")
        return kept

    def of_base(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a base without part in the merge that would have an effect in another model."""
        return {name: value for name, value in given.items() if (one := self.takes(name)) is not None and one.per_model}

    def _read(
        self, given: Mapping[str, Any], path: KeyPath, known: Sequence[str], missing: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The ``known`` ones of ``given``, and those that must be errors.

        ``missing``: the settings of which each must have the parameters that mergekit asks for.
        """
        kept: dict[str, Any] = {}
        for name, value in given.items():
            if name in known:
                kept[name] = self._conditions(value, (*path, name))
                continue
            real = name if self.takes(name) is not None else meant(name, [one for one in known if one not in given])
            stops = real is not None and any(self.needs(real, settings) for settings in missing)
            own = self.origin.is_outside((*path, name)) or (real not in (None, name) and not self.theirs)
            if stops or (own and METHODS[self.method].parameter(name) is None):
                # It will be an error: mergekit stops too, or the parameter is meant for svc_dist and not for mergekit.
                kept[name] = value
                continue
            _require_setting(value, name, f"{self.origin.at(*path, name)}: {self.method}")
            if name not in WITHOUT_EFFECT and real != name:
                self._note(name, real, value, (*path, name))
        return kept

    def _conditions(self, value: Any, path: KeyPath) -> Any:
        """A setting whose conditions have no other keys than ``filter`` and ``value``, and typos of these."""
        if isinstance(value, list):
            return [self._conditions(one, (*path, number)) for number, one in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        kept = {}
        for key, given in value.items():
            if key in ("filter", "value") or not isinstance(key, str) or meant(key, ("filter", "value")):
                kept[key] = given
            else:
                self.notes.add((*path, key), "mergekit ignores {names}, and so does svc_dist", code="key-ignored")
        return kept

    def _note(self, name: str, real: str | None, value: Any, path: KeyPath) -> None:
        own = METHODS[self.method].parameter(name)
        if real is not None:
            self.notes.add(path, typo(real), code="typo")
        elif own is None:
            instead = _TOP if name in _KEYS else _INSTEAD.get((self.method, name))
            text = f"{self.method} takes no {{names}}: mergekit ignores {{them}}, and so does svc_dist"
            self.notes.add(path, f"{text}; {instead}" if instead else text, code="parameter-ignored")
        elif value != own.default:  # svc_dist's lambda
            self.notes.add(path, _LAMBDA.format(method=self.method), code="lambda-ignored")


def typo(real: str) -> str:
    """The text about a key that is a typo of ``real``."""
    return f"{{names}} is probably a typo of '{real}': mergekit ignores {{them}}, and so does svc_dist"


def _names(method: str) -> list[str]:
    return [parameter.name for parameter in METHODS[method].all_parameters]


def _require_setting(value: Any, name: str, owner: str) -> None:
    """Raise RecipeError for what mergekit does not read as a value, a list of values or conditions."""

    def gradient(given: Any) -> bool:
        return all(isinstance(one, bool | int | float | str) for one in (given if isinstance(given, list) else [given]))

    conditions = value if isinstance(value, list) else [value]
    if not gradient(value) and not all(isinstance(one, Mapping) and gradient(one.get("value")) for one in conditions):
        raise RecipeError(
            f"{owner} takes no '{name}', and mergekit stops at {value!r}: it is no value, no list of values and no "
            "{filter, value}",
            "remove it",
            code="value-not-allowed",
        )
