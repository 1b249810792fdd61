"""Commands about recipes themselves: recipe explain, recipe schema."""

from __future__ import annotations

from typing import Annotated

import typer

from svc_dist.cli.terminal import say

recipe = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@recipe.callback()
def _about() -> None:
    """Write, repair and explain recipes. Each has a command of its own.

    Example: svc-dist recipe explain unknown-key
    """


@recipe.command()
def explain(
    code: Annotated[
        str | None, typer.Argument(help="code of an error or a warning; default: list all codes", metavar="CODE")
    ] = None,
) -> None:
    """Explain an error or a warning. What it means, what to do, an example, and what mergekit does.

    Example: svc-dist recipe explain vocab-differs
    """
    from svc_dist.recipe.writing.explanations import explain as explanation
    from svc_dist.recipe.writing.explanations import explanations

    if code is not None:
        say(explanation(code.strip("[]")).text())
        return
    width = max(map(len, explanations()))
    for one in sorted(explanations().values(), key=lambda one: (one.kind, one.code)):
        say(f"{one.code:{width}s}  {one.what}")


@recipe.command()
def schema() -> None:
    """Print the JSON schema of recipes. Editors complete and check recipes with it.

    Example: svc-dist recipe schema > recipe.schema.json
    """
    from svc_dist.recipe.writing.json_schema import render

    say(render(), end=False)
