"""The options of a merge whose OUTPUT is on a hub, and what ``svc-dist plan`` says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from svc_dist.cli import options
from svc_dist.cli.help import panels
from svc_dist.sizes import counted, format_size
from svc_dist.storage.hub.branch import SCHEME

if TYPE_CHECKING:
    from svc_dist.plan.model import Plan

Staging = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=panels.STORAGE,
        help="with an OUTPUT on a hub (hf://owner/name@branch): folder or s3:// URL with room for the model, which is "
        "made there and then uploaded; give the same one to resume",
        metavar="FOLDER",
    ),
]
Public = Annotated[
    bool,
    typer.Option(
        "--public",
        rich_help_panel=panels.STORAGE,
        help="with an OUTPUT on a hub: the repository may be public; without it, a new one is private, and one that is "
        "public is refused",
    ),
]


def place_for_plans(output: str | None, staging: str | None) -> str | None:
    """Where the run of an OUTPUT keeps its settings: of one on a hub the staging folder. Raises OutputError."""
    if output is None or not output.startswith(SCHEME):
        return output
    from svc_dist.run.hub.staged import place_of

    place_of(output)
    return None if staging is None else options.require_text(staging)


def upload_lines(output: str | None, staging: str | None, plans: Sequence[Plan]) -> Iterator[str]:
    """What a plan says of an upload. Asks no hub."""
    if output is None or not output.startswith(SCHEME):
        return
    from svc_dist.run.hub.staged import place_of, staging_of

    place, folder = place_of(output), staging_of(staging, output)
    shards = counted(sum(len(plan.shards) for plan in plans), "shard")
    yield f"makes the model in {folder}, which needs {format_size(sum(plan.bytes_out for plan in plans))}"
    yield (
        f"uploads {shards}, and with the last commit the index, to {place.repository}, branch {place.branch}; a new "
        "repository is private unless --public is given"
    )
