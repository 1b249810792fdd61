"""The keys of ``evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from svc_dist.recipe.rules.keys import Strict
from svc_dist.storage.secrets import redact_command

#: Stands for the merged model in a command.
OUTPUT = "{output}"
#: Stands for an empty folder in a command, for files with scores.
SCORES = "{scores}"


class EvaluateEntry(Strict):
    """A command that scores the merged model after it is published."""

    command: str = Field(
        min_length=1,
        description="shell command with `{output}` for the model; its last line of output is the score: a number, or "
        "JSON with named numbers. Or it writes JSON into the folder `{scores}`, as lm-eval does",
    )
    name: str = Field(
        "evaluation", min_length=1, description="name of the scores in the report and in the model card (data set)"
    )
    task: str = Field(
        "other", min_length=1, description="kind of task in the model card, such as text-generation or translation"
    )
    timeout: float | None = Field(None, gt=0, description="seconds after which the command is stopped; default: none")

    @field_validator("command")
    @classmethod
    def _usable(cls, value: str) -> str:
        require_command(value)
        return value


def require_command(command: str) -> None:
    """Raise ValueError for a command that names no model, or that holds a credential."""
    if OUTPUT not in command:
        raise ValueError(f"the command must have {OUTPUT}, which stands for the merged model")
    if redact_command(command) != command:
        raise ValueError(
            "the command holds a credential, which would end up in reports and model cards: export it as an "
            "environment variable, which the command inherits"
        )


def as_entries(value: Any) -> Any:
    """A text stands for an entry with it as ``command``, and an entry for a list of it."""
    listed = [value] if isinstance(value, str | Mapping) else value
    if not isinstance(listed, list):
        return listed
    return [{"command": one} if isinstance(one, str) else one for one in listed]


def require_names(entries: Sequence[EvaluateEntry]) -> None:
    """Raise ValueError where two entries have one name."""
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{names.count(name)} entries are called '{name}': give each a name of its own")
