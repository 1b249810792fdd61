"""The command line's application: every command, in the order in which help lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from svc_dist.cli import merge_commands, model_commands, plan_commands, recipe_commands
from svc_dist.cli.batch.command import batch
from svc_dist.cli.help import panels
from svc_dist.cli.help.mergekit_flags import MergeCommand
from svc_dist.cli.search.command import search

app = typer.Typer(
    name="svc-dist",
    cls=panels.GroupedCommands,
    epilog="Exit codes: 0 done and verified, 2 wrong recipe or usage, 3 damaged or changed input, 4 storage failure, 5 "
    "another run uses the output, 6 some units failed (resumable) or too little memory, 70 internal error, 75 stopped "
    "on request or cluster lost (run the same command again to resume).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help texts are literal: rich would take [check] for markup
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

COMMANDS = {
    panels.PLAN: (
        plan_commands.plan,
        plan_commands.doctor,
        model_commands.inspect,
        plan_commands.measure_host,
    ),
    panels.RUN: (
        merge_commands.merge,
        batch,
        search,
        model_commands.extract,
        merge_commands.status,
        merge_commands.clean,
    ),
    panels.CHECK: (
        model_commands.verify,
        model_commands.smoke,
        model_commands.report,
        model_commands.diff,
    ),
    panels.LEARN: (
        model_commands.demo,
        model_commands.methods,
    ),
}

for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(cls=MergeCommand, rich_help_panel=panel)(command)
app.add_typer(recipe_commands.recipe, name="recipe", rich_help_panel=panels.PLAN)


def _print_version(requested: bool) -> None:
    if requested:
        from svc_dist import __version__

        typer.echo(f"svc-dist {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Merge fine-tuned experts of very large models: out of core, resumable, spectrally calibrated."""
