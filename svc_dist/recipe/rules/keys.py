"""The keys of a rule that say which models and which layers it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator


class RuleModel(BaseModel):
    """One of the models that take part in a rule's merge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="name of a model of the recipe")
    parameters: dict[str, Any] = Field({}, description="parameters of the merge method for it, under this rule")

    @field_validator("parameters", mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        return {} if value is None else value


def _as_models(value: Any) -> Any:
    """A name stands for ``{model: name}``, and one of them for a list."""
    listed = [value] if isinstance(value, Mapping | str) else value
    return [{"model": one} if isinstance(one, str) else one for one in listed] if isinstance(listed, list) else listed


def _ordered(value: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= value[0] <= value[1]:
        raise ValueError(f"{list(value)} is no range of layers: [first, after the last]")
    return value


#: The models of a rule: a name, or a list of names and mappings.
RuleModels = Annotated[list[RuleModel], BeforeValidator(_as_models), Field(min_length=1)]
#: Layers from the first one to the one after the last.
Layers = Annotated[tuple[int, int], AfterValidator(_ordered)]
