"""The command ``svc-dist batch``: its options are those of ``svc-dist merge``, taken from that command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svc_dist.cli import merge_commands, options
from svc_dist.cli.streams import logs, verbosity
from svc_dist.cli.streams.terminal import tell
from svc_dist.cli.unattended import signalled
from svc_dist.storage.hub.branch import SCHEME
from svc_dist.storage.secrets import refuse_credentials

if TYPE_CHECKING:
    from svc_dist.run.batch.jobs import Job
    from svc_dist.run.batch.record import BatchRecord
    from svc_dist.run.session import MergeSummary

_merge = inspect.unwrap(merge_commands.merge)  # without its arguments: a recipe, its output, changes
_ARGUMENTS = ("recipe", "output", "changes")
_log = logging.getLogger("svc_dist")


def _takes_options_of_merge(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``svc-dist merge`` after its own; it gets them as ``merging``, by name."""

    def parameters(of: Callable[..., Any], without: tuple[str, ...]) -> list[inspect.Parameter]:
        hints = typing.get_type_hints(of, include_extras=True)
        return [
            one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for one in inspect.signature(of).parameters.values()
            if one.name not in without
        ]

    own, shared = parameters(command, ("merging",)), parameters(_merge, _ARGUMENTS)

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(**{one.name: given.pop(one.name) for one in own}, merging=given)

    wrapped.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in (*own, *shared)}
    return wrapped


@_takes_options_of_merge
def batch(
    source: Annotated[
        str,
        typer.Argument(
            help="folder with recipes, or a YAML file with a list of them", metavar="FOLDER|FILE",
            callback=options.require_text,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Argument(
            help="folder or URL for the merged models; {recipe} in it stands for the name of each, which is otherwise "
            "added at its end",
            metavar="OUTPUT",
        ),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(help="JSON file or URL for the results; default: the name of FOLDER or FILE with -batch.json"),
    ] = None,
    changes: options.Changes = None,
    *,
    merging: dict[str, Any],
) -> None:  # fmt: skip
    """Merge several recipes, one after the other. Run the same command again to resume it.

    Recipes that are merged already are skipped. One that fails does not stop the next. A table at the end and a JSON
    file say how each ended. The exit code is the worst.

    Example: svc-dist batch recipes/ 's3://bucket/{recipe}/{date}' --if-changed --keep 7
    """
    logs.set_up(merging["log_format"], verbosity.level(merging["verbose"], merging["quiet"]))
    from svc_dist.run.batch.batch import run_batch

    signalled.signals_of(merging)
    with signalled.early_failures_told(merging, output or source):
        record = _record(source, output, report, changes, merging)

    def merge(job: Job, runtime: float | None) -> MergeSummary:
        own = {"max_runtime": runtime} | _of_job(job, merging)
        given = {"recipe": job.recipe, "output": job.output, "changes": job.changes}
        return merge_commands.run_merge(merging | own | given)

    try:
        run_batch(record, merge, merging["max_runtime"])
    finally:
        _tell(record, merging["quiet"])
    if record.exit_code:
        raise typer.Exit(record.exit_code)


def _record(
    source: str, output: str | None, report: str | None, changes: list[str] | None, merging: dict[str, Any]
) -> BatchRecord:
    """The merges, checked as far as they can be before the first begins. Raises RecipeError, StorageError."""
    from svc_dist.recipe.edits.changes import parse_changes
    from svc_dist.run.batch.jobs import read_jobs
    from svc_dist.run.batch.record import BatchRecord
    from svc_dist.run.executors.ray_address import require_head
    from svc_dist.run.hub.staged import Staging, require_hub
    from svc_dist.run.options import Options
    from svc_dist.run.series.nightly import Nightly

    access = options.access_of(
        merging["endpoint_url"], merging["profile"], merging["anonymous"], parallel=merging["parallel"],
        deadline=merging["storage_deadline"], timeout=merging["storage_timeout"],
    )  # fmt: skip
    common = parse_changes(changes or ())
    jobs = [dataclasses.replace(job, changes={**job.changes, **common}) for job in read_jobs(source, output, access)]
    Options(executor=merging["executor"], address=merging["address"], slots=merging["slots"])
    require_hub([job.output for job in jobs], Staging(merging["staging"], merging["public"]))
    for job in jobs:
        if "{date}" not in job.output:
            Nightly(merging["if_changed"], merging["latest"], merging["keep"]).require_date()
    if merging["address"] is not None:
        require_head(merging["address"])  # not once for each merge
    where = report or f"{Path(source.rstrip('/')).stem or 'svc-dist'}-batch.json"
    refuse_credentials(where, "--report")
    return BatchRecord(jobs, where, access)


def _of_job(job: Job, merging: dict[str, Any]) -> dict[str, Any]:
    """The options that differ between merges: each has its own metrics file and, for a hub, its own staging folder."""
    from svc_dist.run.batch.jobs import placed_for

    file, staging = merging["metrics_file"], merging["staging"]
    to_hub = job.output.startswith(SCHEME)
    return {
        "metrics_file": None if file is None else file.with_stem(f"{file.stem}-{job.name}"),
        "staging": placed_for(job.name, staging) if staging is not None and to_hub else None,
        "public": merging["public"] and to_hub,
    }


def _tell(record: BatchRecord, quiet: bool) -> None:
    """Say how the merges ended; ``quiet``: the log has each failure already, and nothing more is said."""
    if logs.is_json():
        _log.info("batch", extra={"fields": record.data()})
    elif not quiet:
        tell("\n".join(record.table()))
