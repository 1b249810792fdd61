"""The keys of a recipe: what may be said, of which type, and what each key is for.

Keys are mergekit's where mergekit has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from svc_dist.checkpoint.dtype import RECIPE_DTYPES
from svc_dist.errors import RecipeError
from svc_dist.sizes import parse_size
from svc_dist.tensor_names import EMBEDDING_PATTERNS

#: Names that no model may have, because they say something else.
RESERVED = ("base", "owner", "union")

Vocab = Literal["base", "error"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RenameEntry(Strict):
    """Tensors whose names begin with one prefix, told under another."""

    old: str = Field(alias="from", description="prefix of names in the checkpoint")
    new: str = Field(alias="to", description="what stands in its place in the merge")


def _none_given(value: Any) -> Any:
    """``parameters:`` with nothing after it says nothing."""
    return {} if value is None else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


class ModelEntry(Strict):
    """One expert (or the base, listed to take part in ``linear``)."""

    model: str = Field(
        min_length=1, description="folder or URL of a safetensors checkpoint or adapter, or model+adapter"
    )
    name: str | None = Field(None, min_length=1, description="what `keep` and the like call it; default: its folder's")
    rename: list[RenameEntry] = Field(
        default_factory=list, description="{from: prefix, to: prefix} of names, or a list"
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="this expert's own parameters of the method")

    _one_rename = field_validator("rename", mode="before")(_listed)
    _no_parameters = field_validator("parameters", mode="before")(_none_given)

    @field_validator("name")
    @classmethod
    def _free(cls, value: str | None) -> str | None:
        if value in RESERVED:
            raise ValueError(f"'{value}' is taken: it says something else where models are named")
        return value


class RuleEntry(Strict):
    """What to do with the tensors whose name matches; the first rule that matches wins."""

    match: list[str] = Field(min_length=1, description="name patterns with * and ?, one or a list")
    keep: str | None = Field(
        None, description="unmerged, as in `base`, in the model of this name, or in its `owner`: the one that has it"
    )
    merge_method: str | None = Field(None, description="a merge method other than the recipe's")
    parameters: dict[str, Any] = Field(default_factory=dict, description="parameters that win over the recipe's")
    calibrate: dict[str, Any] | None = Field(None, description="a calibration, or none")
    vocab: Vocab | None = Field(None, description="`base`: rows beyond the base's are left out, shared ones merged")
    optional: bool = Field(False, description="a warning, not an error, when the rule decides about no tensor")

    @field_validator("match", mode="before")
    @classmethod
    def _one_or_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("calibrate", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value


class TokenizerSource(Strict):
    """mergekit's other spelling of ``tokenizer_source``."""

    source: str = Field(description="base, or a model")


class OutputEntry(Strict):
    """One of several results of one pass: what the recipe says, with these values in place."""

    path: str = Field(min_length=1, description="folder for it, inside OUTPUT")
    scale: float | None = Field(None, alias="lambda", description="parameter `lambda` of the merge method")
    parameters: dict[str, Any] = Field(default_factory=dict, description="parameters that win over the recipe's")
    calibrate: dict[str, Any] | None = Field(None, description="a calibration, or keys of the recipe's, or none")

    _calibrate_named = field_validator("calibrate", mode="before")(
        lambda value: {"method": value} if isinstance(value, str) else value
    )

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        parts = value.split("/")
        if any(part in ("", ".", "..") or part.startswith(".") for part in parts) or "\\" in value or "://" in value:
            raise ValueError(f"'{value}' is not a folder inside OUTPUT, like lambda-0.3")
        return value


class StorageOptions(Strict):
    """How the storage behind a URL prefix is reached. Credentials come from the environment, never from a recipe."""

    endpoint_url: str | None = Field(None, description="another S3-compatible store, e.g. https://minio.example:9000")
    profile: str | None = Field(None, description="profile of the AWS configuration")
    region: str | None = Field(None, description="region of the bucket")
    anonymous: bool | None = Field(None, description="read public data without credentials")
    client: dict[str, Any] = Field(default_factory=dict, description="other options of the fsspec file system")


class Recipe(Strict):
    """What to merge and how."""

    base_model: str | None = Field(None, description="the common ancestor; `linear` alone can do without")
    models: list[ModelEntry] = Field(min_length=1, description="the experts")
    merge_method: str = Field(description="the merge method of every tensor without a rule of its own")
    parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of the method, for all experts")
    calibrate: dict[str, Any] | None = Field(None, description="svc, or {method: svc, alpha: ..., side: ...}")
    fallback: dict[str, Any] = Field(
        default_factory=lambda: {"method": "linear"},
        description="element-wise method for what a spectral method does not take",
    )
    dtype: str | None = Field(None, description="dtype written; default: each tensor's dtype in the base")
    out_dtype: str | None = Field(None, description="dtype written, where it is another than dtype; as in mergekit")
    rules: list[RuleEntry] = Field(default_factory=list, description="exceptions by name; the first match wins")
    vocab: Vocab = Field(
        "error", description="experts with more tokens: an error, or the `base`'s rows merged and no others"
    )
    rename: list[RenameEntry] = Field(
        default_factory=list, description="as of a model, for every model that has the prefix"
    )
    config_source: str | None = Field(
        None, description="model whose config, tokenizer and other files the result gets; default: the base"
    )
    tokenizer_source: str | None = Field(
        None, description="base, or a model whose tokenizer files the result gets; vocabularies must agree"
    )
    tokenizer: TokenizerSource | None = Field(None, description="{source: ...}, as tokenizer_source")
    chat_template: str | None = Field(
        None, min_length=1, description="auto (what most models have), a template's name, or a template in Jinja"
    )
    outputs: list[OutputEntry] = Field(
        default_factory=list, description="several results of one pass, each in a folder of its own inside OUTPUT"
    )
    max_shard_size: str | int = Field("5GB", description="largest shard, in SI or IEC units")
    preset: str | None = Field(None, description="named values for what the recipe leaves out; see `svc-dist methods`")
    storage: dict[str, StorageOptions] = Field(
        default_factory=dict, description="by URL prefix: how the storage is reached; no part of what is merged"
    )
    embedding_patterns: list[str] = Field(
        default_factory=lambda: list(EMBEDDING_PATTERNS),
        description="names that are embeddings or output heads; your own must match a tensor",
    )

    _one_rename = field_validator("rename", mode="before")(_listed)
    _no_parameters = field_validator("parameters", mode="before")(_none_given)
    _calibrate_named = field_validator("calibrate", "fallback", mode="before")(
        lambda value: {"method": value} if isinstance(value, str) else value
    )

    @field_validator("dtype", "out_dtype")
    @classmethod
    def _known_dtype(cls, value: str | None) -> str | None:
        value = value and value.removeprefix("torch.")
        if value is not None and value not in RECIPE_DTYPES:
            raise ValueError(f"'{value}' is not one of {', '.join(RECIPE_DTYPES)}")
        return value

    @field_validator("max_shard_size", mode="before")
    @classmethod
    def _sized(cls, value: Any) -> Any:
        try:
            parse_size(value)
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _one_tokenizer(self) -> Recipe:
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("tokenizer and tokenizer_source say the same: give one of them")
        return self

    @field_validator("outputs")
    @classmethod
    def _apart(cls, value: list[OutputEntry]) -> list[OutputEntry]:
        for index, entry in enumerate(value):
            for other in value[:index]:
                if f"{entry.path}/".startswith(f"{other.path}/") or f"{other.path}/".startswith(f"{entry.path}/"):
                    raise ValueError(f"{other.path} and {entry.path} are not folders apart")
        return value
