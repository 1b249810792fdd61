"""The options of a merge that is started again and again, such as every night."""

from __future__ import annotations

from typing import Annotated

import typer

from svc_dist.cli.help import panels

IfChanged = Annotated[
    bool,
    typer.Option(
        "--if-changed",
        rich_help_panel=panels.REPEATED,
        help="merge only if inputs, recipe or settings differ from those of the last output; else exit with 0. With "
        "{date} in OUTPUT, an unfinished merge whose inputs have changed is removed, and today's starts",
    ),
]
Latest = Annotated[
    bool,
    typer.Option(
        "--latest",
        rich_help_panel=panels.REPEATED,
        help="with {date} in OUTPUT: once the merge is verified, switch the pointer (OUTPUT with 'latest' in place of "
        "{date}: a symbolic link, or a .json object on object storages)",
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=panels.REPEATED,
        min=1,
        metavar="N",
        help="with {date} in OUTPUT: remove complete merges of it but the N newest, without asking; only files that "
        "svc-dist wrote, and never the merge that 'latest' names",
    ),
]
