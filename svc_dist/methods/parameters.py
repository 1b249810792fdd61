"""Parameters of methods and calibrations: their types, defaults and ranges, and those that several methods share."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from svc_dist.errors import RecipeError


class ByExperts(NamedTuple):
    """A default that depends on the number K of experts: its formula as a reader writes it, and as a function of K."""

    formula: str
    value: Callable[[int], Any]


class Deferred:
    """Base class of a setting that has its value only for a given tensor. Whoever makes it checks what it can hold."""


#: Booleans as text.
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "t", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "f", "n", "0"), False),
}


def _number(text: str) -> float | str:
    """A number that is written as text, like a quoted one; the text where it is none."""
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: its type, default and range. ``per_model``: each expert may have its own value.

    ``default``: a value, or ``ByExperts``. ``pattern``: a regular expression for what is allowed beside ``choices``,
    and how to say it.
    """

    name: str
    kind: type
    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    choices: tuple[str, ...] = ()
    per_model: bool = False
    pattern: tuple[str, str] | None = None

    def allowed(self) -> str:
        """The allowed values, for messages and docs."""
        if self.choices:
            return "one of " + ", ".join(self.choices) + (f" or {self.pattern[1]}" if self.pattern else "")
        if self.kind is bool:
            return "true or false"
        name = "a whole number" if self.kind is int else "a number"
        low = "" if self.low is None else f" {'above' if self.low_open else 'at least'} {self.low:g}"
        high = "" if self.high is None else f"{' and' if low else ''} at most {self.high:g}"
        return name + low + high

    def fits(self, value: str) -> bool:
        """Whether ``value`` matches the pattern."""
        return self.pattern is not None and re.fullmatch(self.pattern[0], value) is not None

    def check(self, value: Any, owner: str) -> Any:
        """The value as this parameter's type. Raises RecipeError naming ``owner``, the key and what is allowed."""
        wrong = RecipeError(
            f"{owner}: {self.name} is {value!r}, but must be {self.allowed()}", code="value-not-allowed"
        )
        if self.kind is bool:
            if isinstance(value, str):
                value = _BOOLEANS.get(value.casefold())
            if value not in (0, 1):  # recipes have 1.0 for true
                raise wrong
            return bool(value)
        if self.kind is str:
            if not isinstance(value, str) or (self.choices and value not in self.choices and not self.fits(value)):
                raise wrong
            return value
        if isinstance(value, str):
            value = _number(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise wrong
        if self.kind is int and value != int(value):
            raise wrong
        too_low = self.low is not None and (value < self.low or (self.low_open and value == self.low))
        if too_low or (self.high is not None and value > self.high):
            raise wrong
        return self.kind(value)

    def complete(self, given: Mapping[str, Any], experts: int, owner: str) -> Any:
        """The checked value that ``given`` sets, or else the default for so many experts. Raises RecipeError.

        A ``Deferred`` stays as it is. None stands for a default that depends on the number of experts.
        """
        by_experts = isinstance(self.default, ByExperts)
        value = given.get(self.name, None if by_experts else self.default)
        if value is None and by_experts:
            value = self.default.value(experts)
        return value if isinstance(value, Deferred) else self.check(value, owner)


# --- Parameters that methods share ---------------------------------------------------------------------------------

LAMBDA = Parameter("lambda", float, 1.0, "scale of the merged delta: W = W0 + lambda * M")
WEIGHT = Parameter("weight", float, 1.0, "weight of an expert", per_model=True)
NORMALIZE = Parameter("normalize", bool, True, "divide by the sum of the weights")
KEEP_SUM = Parameter("normalize", bool, False, "divide by the sum of the weights")
DENSITY = Parameter(
    "density", float, 1.0, "share of an expert's entries that is kept", low=0, high=1, per_model=True
)  # fmt: skip
GAMMA = Parameter(
    "gamma", float, 0.01, "share of the largest entries that is dropped as outliers", low=0, high=1, per_model=True
)
EPSILON = Parameter(
    "epsilon", float, 0.15, "how far a row's smallest and largest entry are below and above density",
    low=0, high=1, per_model=True,
)  # fmt: skip
SEED = Parameter("seed", int, 0, "which random draws: the same seed, tensor and expert give the same", low=0)
RESCALE = Parameter("rescale", bool, True, "divide kept entries by the probability of being kept")
RESCALE_NORM = Parameter("rescale", bool, False, "scale what is kept of an expert to the L1 norm of its whole delta")
LEAST_CHANGE = Parameter("epsilon", float, 1e-5, "magnitude from which on a difference is a change", low=0)
INIT = Parameter(
    "init", str, "sum", "what is merged to begin with: the deltas' sum, their mean, or nothing",
    choices=("sum", "mean", "zero"),
)  # fmt: skip
STEPS = Parameter("steps", int, 300, "steps of Adam", low=0)
LR = Parameter("lr", float, 1e-5, "learning rate of Adam", low=0, low_open=True)


# --- Which values go together --------------------------------------------------------------------------------------


#: Weights that add up to this share of their sizes are zero but for rounding: 0.7 - 0.4 - 0.3 is 3e-8 in float32.
CANCELLED = 1e-6


def cancel(weights: Sequence[float]) -> bool:
    """Whether weights add up to zero, but for rounding."""
    return abs(math.fsum(weights)) <= CANCELLED * math.fsum(map(abs, weights))


def require_weights_to_divide_by(values: Mapping[str, Any]) -> None:
    """Raise RecipeError where ``normalize`` divides by weights that add up to zero."""
    key = "normalize" if "normalize" in values else "normalize_weights"
    if values[key] and cancel([*values["weight"], values.get("base_weight") or 0.0]):
        raise RecipeError(
            "the weights add up to zero, which cannot be normalized",
            f"change a weight, or set {key}: false",
            code="values-contradict",
        )


def require_two_models(values: Mapping[str, Any]) -> None:
    """Raise RecipeError unless two models take part."""
    count = len(values["weight"]) + (values["base_weight"] is not None)
    if count != 2:
        raise RecipeError(f"it takes two models besides a base_model, not {count}", code="number-of-experts")


def require_della_range(values: Mapping[str, Any]) -> None:
    """Raise RecipeError where ``density`` and ``epsilon`` of an expert give no probabilities between 0 and 1."""
    for density, epsilon in zip(values["density"], values["epsilon"], strict=True):
        if density not in (0, 1) and not (density - epsilon > 0 and density + epsilon < 1):
            raise RecipeError(
                f"density {density:g} with epsilon {epsilon:g}: density - epsilon must be above 0 and "
                "density + epsilon below 1 (or density exactly 0 or 1)",
                code="values-contradict",
            )


def sums_deltas(values: Mapping[str, Any]) -> bool:
    """Whether ``linear`` adds up deltas alone: the base's share cancels out."""
    return bool(values["normalize"]) or sum(values["weight"]) + values["base_weight"] == 1
