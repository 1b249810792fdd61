"""How much a command says of its work."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from svc_dist.cli.help import panels

Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", rich_help_panel=panels.LOG, help="also log each unit: tensors, seconds, device"),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=panels.LOG, help="print warnings and errors only")
]
#: Of a command whose result is what it prints: ``--quiet`` leaves that.
QuietLog = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        rich_help_panel=panels.LOG,
        help="print the result and warnings: no log, no progress",
    ),
]


def level(verbose: bool, quiet: bool) -> int:
    """The level of the log. Raises typer.BadParameter where both are asked for."""
    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other: leave one out", param_hint="--quiet")
    return logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
