"""mergekit's ways to name a model: as text, or as a mapping of path, revision and adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_text(value: Any) -> Any:
    """``NAME@REVISION+ADAPTER`` of a model that is written as a mapping; what is no such mapping, as it is."""
    if not isinstance(value, Mapping) or not {"model"} <= set(value) <= {"model", "lora", "override_architecture"}:
        return value
    model, lora = _path(value["model"]), _path(value.get("lora"))
    if model is None:
        return value
    return model if lora is None else f"{model}+{lora}"


def _path(value: Any) -> str | None:
    """A path with its revision, as text or as a mapping of both."""
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        revision = value.get("revision")
        return value["path"] if revision is None else f"{value['path']}@{revision}"
    return value if isinstance(value, str) else None
