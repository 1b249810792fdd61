"""The keys of a recipe: their types, their defaults and what each one does.

A key has mergekit's name where mergekit has the key.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from svc_dist.checkpoint.dtype import recipe_dtype
from svc_dist.errors import RecipeError
from svc_dist.recipe.evaluation.axes import AxisEntry, as_axes
from svc_dist.recipe.evaluation.entry import EvaluateEntry, as_entries, require_names
from svc_dist.recipe.rules.keys import (
    Calibrate,
    Layers,
    OnlyWhere,
    RuleEntry,
    Strict,
    Vocab,
    as_list,
    as_mapping,
    as_method,
    as_only_where,
)
from svc_dist.recipe.training.entry import CheckpointsEntry
from svc_dist.sizes import parse_size
from svc_dist.tensor_names import EMBEDDING_PATTERNS

#: Names that no model may have: a recipe uses them with another meaning.
_RESERVED = ("base", "owner", "none", "union")


class RenameEntry(Strict):
    """A prefix of tensor names that the merge replaces with another prefix, or a pattern of whole names."""

    old: str = Field(alias="from", description="prefix of tensor names in the checkpoint, or a pattern with *")
    new: str = Field(alias="to", description="prefix in the merged model; each * is the text of the same one in `from`")

    @model_validator(mode="after")
    def _same_gaps(self) -> RenameEntry:
        if self.old.count("*") != self.new.count("*"):
            raise ValueError(f"'{self.old}' and '{self.new}' must have equally many *")
        return self


class ModelEntry(Strict):
    """One expert, or the base where it takes part in ``linear``."""

    model: str = Field(
        min_length=1, description="folder, URL or hub id (owner/name) of a model or adapter, or model+adapter"
    )
    name: str | None = Field(
        None, min_length=1, description="name for `keep` and other keys; default: its folder's name"
    )
    use: Literal["model", "adapter"] | None = Field(
        None, description="which is meant, where a folder holds a `model` and an `adapter`"
    )
    rename: list[RenameEntry] = Field([], description="prefixes of names to replace: {from: ..., to: ...}, or a list")
    layer_range: Layers | None = Field(None, description="its layers that are used: [first, after the last]")
    at: int | None = Field(None, ge=0, description="number of the first of them in the result; default: its own")
    parameters: dict[str, Any] = Field({}, description="parameters of the merge method for this expert")

    _rename_list = field_validator("rename", mode="before")(as_list)
    _parameters_mapping = field_validator("parameters", mode="before")(as_mapping)

    @field_validator("name")
    @classmethod
    def _free(cls, value: str | None) -> str | None:
        if value in _RESERVED:
            raise ValueError(f"'{value}' is reserved: choose another name")
        return value


class ZeroRow(Strict):
    """A row of zeros."""

    kind: Literal["zero"] = Field(description="`zero`")


class TokenRowOf(Strict):
    """The row of another token of a model."""

    kind: Literal["model_token"] = Field(description="`model_token`")
    model: str = Field(min_length=1, description="name of a model")
    token: str | None = Field(None, min_length=1, description="a token of that model")
    token_id: int | None = Field(None, ge=0, description="the number of a row of that model")

    @model_validator(mode="after")
    def _one(self) -> TokenRowOf:
        if (self.token is None) == (self.token_id is None):
            raise ValueError("give one of token and token_id")
        return self


class TokenRow(Strict):
    """The row of a token in models that do not have it."""

    source: str | ZeroRow | TokenRowOf | None = Field(
        None, description="a model, `{kind: zero}`, or `{kind: model_token, model: ..., token: ...}` (or `token_id`)"
    )
    force: bool = Field(False, description="also in models that have the token")


class TokenizerSource(Strict):
    """The result's tokenizer, and the rows of its tokens."""

    source: str = Field("union", min_length=1, description="base, a model, or `union`: the tokens of all models")
    tokens: dict[str, TokenRow | None] = Field({}, description="rows of single tokens, which the result has")
    pad_to_multiple_of: int | None = Field(
        None, ge=1, description="the number of rows is a multiple of this; the rows added are the mean of the others"
    )

    _tokens_mapping = field_validator("tokens", mode="before")(as_mapping)


class OutputEntry(Strict):
    """One of several models made in one pass: the recipe with these values."""

    path: str = Field(
        min_length=1, description="folder of this model, relative to OUTPUT; of a grid: with {lambda} for its values"
    )
    scale: float | None = Field(
        None, alias="lambda", description="parameter `lambda` of the merge method; a list: a model for each value"
    )
    parameters: dict[str, Any] = Field({}, description="parameters that override the recipe's")
    calibrate: Calibrate | None = Field(
        None, description="calibration or a list of them, or keys that override the recipe's, or none"
    )
    only_where: OnlyWhere | None = Field(None, description="condition in place of the recipe's, or none")
    weights: list[float] | None = Field(None, description="weight of each model in this result, in order")
    checkpoints: dict[str, Any] | None = Field(
        None, description="keys that override those of the recipe's `checkpoints`, such as {last: 4}"
    )
    grid: dict[str, list[Any]] | None = Field(
        None, description="lists of values by key, such as {calibrate.alpha: [0.3, 0.6]}: a model for each combination"
    )

    _calibrate_method = field_validator("calibrate", mode="before")(as_method)
    _only_where_none = field_validator("only_where", mode="before")(as_only_where)

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        if any(not part or part.startswith(".") for part in value.split("/")) or "\\" in value or "://" in value:
            raise ValueError(f"'{value}' is not a folder inside OUTPUT, like lambda-0.3")
        return value


class StorageOptions(Strict):
    """Options for the storage behind a URL prefix. Credentials come from the environment, never from a recipe."""

    endpoint_url: str | None = Field(None, description="S3-compatible service, e.g. https://minio.example:9000")
    profile: str | None = Field(None, description="profile in the AWS configuration")
    region: str | None = Field(None, description="region of the bucket")
    anonymous: bool | None = Field(None, description="read public data without credentials")
    client: dict[str, Any] = Field({}, description="other options of the fsspec file system")


class Recipe(Strict):
    """What to merge and how."""

    base_model: str | None = Field(None, description="common ancestor of the experts; only `linear` works without one")
    models: list[ModelEntry] = Field(min_length=1, description="the experts")
    checkpoints: CheckpointsEntry | str | None = Field(
        None, description="in place of `models`: the checkpoints of a training run, merged as their mean"
    )
    merge_method: str = Field(
        description="merge method of all tensors that no rule changes; `auto`: chosen by what the experts show"
    )
    parameters: dict[str, Any] = Field({}, description="parameters of the merge method, for all experts")
    calibrate: Calibrate | None = Field(
        None, description="svc, or {method: svc, alpha: ..., side: ...}, or a list of them, applied in order; or `auto`"
    )
    only_where: OnlyWhere | None = Field(
        None, description="{relative_difference: ...}: tensors whose experts differ less from the base stay the base's"
    )
    fallback: dict[str, Any] = Field(
        {"method": "linear"}, description="element-wise method for tensors that a spectral method cannot merge"
    )
    dtype: str | None = Field(None, description="dtype of the merged tensors; default: each tensor's dtype in the base")
    out_dtype: str | None = Field(None, description="as in mergekit: dtype of the merged tensors in place of `dtype`")
    rules: list[RuleEntry] = Field([], description="exceptions by tensor name; the first rule that matches decides")
    quantization: Literal["base", "none"] | None = Field(
        None,
        description="of a quantised base: `base`, the default, writes the base's own format; `none` writes bfloat16",
    )
    vocab: Vocab = Field(
        "error",
        description="for experts with other tokens: stop, or give the result the tokens of the `base` or of all models "
        "(`union`), with rows matched by token, or merge only the rows that are `common` to all",
    )
    untie: bool = Field(
        False, description="give models whose output head is their embedding a head of its own, and the result too"
    )
    rename: list[RenameEntry] = Field([], description="as `rename` of a model, for every model that has the prefix")
    config_source: str | None = Field(
        None, description="model whose config, tokenizer and other files are copied; default: the base"
    )
    tokenizer_source: str | None = Field(
        None,
        description="base, a model, or `union`: the tokenizer of the result, by whose tokens rows are merged",
    )
    tokenizer: TokenizerSource | None = Field(
        None, description="{source, tokens, pad_to_multiple_of}: `tokenizer_source` with rows of single tokens"
    )
    chat_template: str | None = Field(
        None, min_length=1, description="auto (that of most models), the name of a template, or a template in Jinja"
    )
    outputs: list[OutputEntry] = Field([], description="several models made in one pass, in folders inside OUTPUT")
    output: Literal["model", "adapter"] | None = Field(
        None, description="what is written: a `model` (default), or what the merge adds to the base as a LoRA `adapter`"
    )
    rank: int | None = Field(
        None, ge=1, description="largest rank in an adapter; required where merged deltas are not of low rank"
    )
    max_shard_size: str | int = Field(
        "5GB", validate_default=True, description="largest shard, in bytes or with an SI or IEC unit"
    )
    preset: str | None = Field(None, description="name of a set of defaults; see `svc-dist methods`")
    evaluate: list[EvaluateEntry] = Field(
        [], description="commands that score the merged model, without effect on it; a command, an entry, or a list"
    )
    search: dict[str, AxisEntry] = Field(
        {},
        description="values that `svc-dist search` tries, by parameter: {lambda: [0.2, 1.0]}; no effect on merges",
    )
    storage: dict[str, StorageOptions] = Field({}, description="options by URL prefix, without effect on results")
    embedding_patterns: list[str] = Field(
        list(EMBEDDING_PATTERNS),
        description="name patterns of embeddings and output heads; each pattern of your own must match a tensor",
    )

    _rename_list = field_validator("rename", mode="before")(as_list)
    _parameters_mapping = field_validator("parameters", mode="before")(as_mapping)
    _methods = field_validator("calibrate", "fallback", mode="before")(as_method)
    _only_where_none = field_validator("only_where", mode="before")(as_only_where)
    _known_dtype = field_validator("dtype", "out_dtype")(recipe_dtype)
    _entries = field_validator("evaluate", mode="before")(as_entries)
    _axes = field_validator("search", mode="before")(as_axes)

    @field_validator("evaluate")
    @classmethod
    def _names(cls, value: list[EvaluateEntry]) -> list[EvaluateEntry]:
        require_names(value)
        return value

    @field_validator("max_shard_size", mode="before")
    @classmethod
    def _sized(cls, value: Any) -> Any:
        try:
            return parse_size(value)
        except RecipeError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _one_tokenizer(self) -> Recipe:
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("tokenizer and tokenizer_source are the same key: give one of them")
        return self

    @field_validator("outputs")
    @classmethod
    def _apart(cls, value: list[OutputEntry]) -> list[OutputEntry]:
        for first, second in itertools.combinations([entry.path for entry in value], 2):
            if f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/"):
                raise ValueError(f"{first} and {second} must be separate folders, not one in the other")
        return value
