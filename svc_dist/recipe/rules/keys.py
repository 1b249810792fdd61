"""The keys of a rule, and the forms that keys of a recipe may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from svc_dist.checkpoint.dtype import recipe_dtype
from svc_dist.recipe.rules.kinds import Kind

Vocab = Literal["base", "common", "union", "error"]
Stored = Literal["out_in", "in_out"]


class Strict(BaseModel):
    """Keys of which an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def as_mapping(value: Any) -> Any:
    """``parameters:`` without a value is an empty mapping."""
    return {} if value is None else value


def as_list(value: Any) -> Any:
    """A text or a mapping stands for a list of it."""
    return [value] if isinstance(value, Mapping | str) else value


def as_method(value: Any) -> Any:
    """A text stands for a mapping with it as ``method``; also in a list. Raises ValueError for what is neither."""
    if isinstance(value, list):
        return [as_method(one) if not isinstance(one, list) else _mapping(one) for one in value]
    return {"method": value} if isinstance(value, str) else _mapping(value)


def _mapping(value: Any) -> Any:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{value!r} must be a mapping of keys to values")
    return value


#: A calibration, or several in order.
Calibrate = dict[str, Any] | list[dict[str, Any]]


class RuleModel(Strict):
    """One of the models that take part in a rule's merge."""

    model: str = Field(min_length=1, description="name of a model of the recipe")
    parameters: dict[str, Any] = Field({}, description="parameters of the merge method for it, under this rule")

    _parameters_mapping = field_validator("parameters", mode="before")(as_mapping)


def _as_models(value: Any) -> Any:
    """A name stands for ``{model: name}``, and one of them for a list."""
    listed = as_list(value)
    return [{"model": one} if isinstance(one, str) else one for one in listed] if isinstance(listed, list) else listed


def _ordered(value: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= value[0] <= value[1]:
        raise ValueError(f"{list(value)} is no range of layers: [first, after the last]")
    return value


#: The models of a rule: a name, or a list of names and mappings.
RuleModels = Annotated[list[RuleModel], BeforeValidator(_as_models), Field(min_length=1)]
#: Layers from the first one to the one after the last.
Layers = Annotated[tuple[int, int], AfterValidator(_ordered)]


class OnlyWhere(Strict):
    """What must hold for a tensor to be merged; else it stays the base's, byte for byte."""

    relative_difference: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="the norm of some expert's difference from the base, divided by the base's norm, exceeds this",
    )


def as_only_where(value: Any) -> Any:
    """``none`` stands for no condition."""
    return {"relative_difference": None} if value == "none" else value


class RuleEntry(Strict):
    """An exception for tensors whose name matches, or that are of a kind; the first rule that matches decides."""

    match: list[str] = Field(
        min_length=1, description="one name pattern with * and ?, or a list; beside `kind`, all names by default"
    )
    kind: list[Kind] | None = Field(
        None, min_length=1, description="only this part of a mixture of experts, under any family's names, or a list"
    )
    layer_range: Layers | None = Field(None, description="only these layers: [first, after the last]")
    models: RuleModels | None = Field(None, description="only these take part: names, or mappings")
    base_model: str | None = Field(None, description="base of these tensors in place of the recipe's")
    keep: str | None = Field(
        None,
        description="copy from `base`, from the model of this name, or from the `owner`, the only model that has it; "
        "`none` leaves them out of the result",
    )
    merge_method: str | None = Field(None, description="merge method in place of the recipe's")
    parameters: dict[str, Any] = Field({}, description="parameters that override the recipe's")
    calibrate: Calibrate | None = Field(None, description="calibration in place of the recipe's, or a list, or none")
    only_where: OnlyWhere | None = Field(None, description="condition in place of the recipe's, or none")
    vocab: Vocab | None = Field(None, description="as `vocab` of the recipe, for every tensor that the rule matches")
    stored: Stored | None = Field(
        None,
        description="layout of matrices: `out_in` (as nn.Linear) or `in_out`; default: as recognised",
    )
    dtype: str | None = Field(None, description="dtype of these tensors in place of the recipe's; also of kept ones")
    rank: Annotated[int, Field(ge=1)] | Literal["full"] | None = Field(
        None, description="`rank` for these tensors in an adapter; `full` saves them whole (modules_to_save)"
    )
    optional: bool = Field(False, description="the rule may match no tensor")

    _lists = field_validator("match", "kind", mode="before")(as_list)
    _known_dtype = field_validator("dtype")(recipe_dtype)
    _calibrate_method = field_validator("calibrate", mode="before")(as_method)
    _only_where_none = field_validator("only_where", mode="before")(as_only_where)

    @model_validator(mode="before")
    @classmethod
    def _any_name(cls, value: Any) -> Any:
        """Where a kind selects tensors, their names may be any."""
        selects = isinstance(value, Mapping) and value.get("kind") is not None
        return {"match": ["*"], **value} if selects else value

    @property
    def takes_all(self) -> bool:
        """Whether it matches every tensor."""
        return self.kind is None and self.layer_range is None and "*" in self.match
