"""One parameter of a method: its type, default and range."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

from svc_dist.errors import RecipeError


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: its type, default and range. ``per_model``: each expert may have its own value.

    ``pattern``: a regular expression for what is allowed beside ``choices``, and how to say it.
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
        wrong = RecipeError(f"{owner}: {self.name} is {value!r}, but must be {self.allowed()}")
        if self.kind is bool:
            if not isinstance(value, bool):
                raise wrong
            return value
        if self.kind is str:
            if not isinstance(value, str) or (self.choices and value not in self.choices and not self.fits(value)):
                raise wrong
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise wrong
        if self.kind is int and value != int(value):
            raise wrong
        too_low = self.low is not None and (value < self.low or (self.low_open and value == self.low))
        if too_low or (self.high is not None and value > self.high):
            raise wrong
        return self.kind(value)
