"""The keys of ``search``: which values of a recipe a search tries."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from svc_dist.recipe.rules.keys import Strict


class AxisEntry(Strict):
    """The values of one key that a search tries: a range, or a list."""

    range: list[float] | None = Field(None, description="[lowest, highest]; also written alone, without `range`")
    grid: list[Any] | None = Field(None, description="values to try, in place of a range")
    steps: int | None = Field(None, ge=2, description="of a range: only so many values, evenly spaced")
    log: bool = Field(False, description="of a range: by its logarithm")
    layers: int | None = Field(
        None,
        ge=2,
        description="so many values over the depth of the model, from the first layer to the last",
    )
    filters: list[str] = Field(
        [], description="a value for tensors with each of these texts in their name, and one for all others"
    )

    @model_validator(mode="after")
    def _one_form(self) -> AxisEntry:
        if (self.range is None) == (self.grid is None):
            raise ValueError("give one of range and grid")
        if self.grid == [] or (self.grid and (self.log or self.steps)):
            raise ValueError("grid takes at least one value, and neither log nor steps")
        if self.range is not None:
            if len(self.range) != 2 or not self.range[0] < self.range[1]:
                raise ValueError("a range is [lowest, highest]; for single values write {grid: [...]}")
            if self.log and self.range[0] <= 0:
                raise ValueError("the lowest value of a range with log must be above 0")
        if self.layers and self.filters:
            raise ValueError("give one of layers and filters")
        return self


def as_axes(value: Any) -> Any:
    """A list stands for an entry with it as ``range``."""
    if not isinstance(value, dict):
        return value
    return {key: {"range": one} if isinstance(one, list) else one for key, one in value.items()}
