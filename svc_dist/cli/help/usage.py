"""What typer refuses of a command line, as an error like all others."""

from __future__ import annotations

from typing import Any

import typer

from svc_dist.errors import RecipeError

#: The class of typer's own refusals, of which ``typer.BadParameter`` is one.
UsageError: Any = typer.BadParameter.__mro__[1]


def refusal(error: Any) -> RecipeError | None:
    """The same as an error of this package; None for a command without arguments, which prints its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return None
    names, context = list[str](), error.ctx
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    command = " ".join(["svc-dist", *names])
    message = str(error.format_message()).strip().replace("Value error, ", "")
    return RecipeError(
        f"{message[:1].lower()}{message[1:].removesuffix('.')}", f"{command} --help lists its arguments and options"
    )
