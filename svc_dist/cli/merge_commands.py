"""Commands about one merge: merge, status, clean."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svc_dist.cli import options
from svc_dist.cli.arguments import takes_models
from svc_dist.cli.help import panels
from svc_dist.cli.hub import uploaded
from svc_dist.cli.streams import logs, verbosity
from svc_dist.cli.streams.terminal import tell
from svc_dist.cli.unattended import repeated, signalled
from svc_dist.errors import RecipeError
from svc_dist.plan.settings import Device
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run.options import ExecutorKind

if TYPE_CHECKING:
    from svc_dist.run.session import MergeSummary

#: The options that ``svc_dist.api.merge`` takes by the same names.
_AS_GIVEN = (
    "executor", "address", "slots", "device", "precision", "threads_per_unit", "mixed_gpus", "max_shard_size",
    "changes", "scratch", "restart", "grace", "max_runtime", "unit_deadline", "node_timeout", "run_commands", "staging",
    "public",
)  # fmt: skip


def _seconds(about: str, panel: str = panels.LIMITS) -> Any:
    return typer.Option(min=0, metavar="SECONDS", help=about, rich_help_panel=panel)


@takes_models(output="required")
def merge(
    recipe: str | ResolvedRecipe,
    output: str,
    changes: dict[str, Any],
    executor: Annotated[
        str,
        typer.Option(
            callback=options.executor_name,
            rich_help_panel=panels.MACHINES,
            metavar=f"<{'|'.join(ExecutorKind)}>",
            help="inline: threads of this process; auto: ray with --address or several devices, else inline; or the "
            "name of one that an installed package adds",
        ),
    ] = ExecutorKind.AUTO,
    address: options.Address = None,
    slots: options.Slots = None,
    device: options.Device = Device.AUTO,
    precision: options.Precision = None,
    threads_per_unit: options.Threads = None,
    mixed_gpus: Annotated[
        bool,
        typer.Option(
            "--mixed-gpus",
            rich_help_panel=panels.MACHINES,
            help="use GPUs of several kinds: last bits depend on them",
        ),
    ] = False,
    max_shard_size: options.ShardSize = None,
    scratch: options.Scratch = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
    parallel: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", rich_help_panel=panels.STORAGE, help="storage requests in parallel for one unit"
        ),
    ] = 16,
    storage_deadline: Annotated[
        float, _seconds("seconds during which a transient storage failure is retried", panels.STORAGE)
    ] = 300.0,
    storage_timeout: Annotated[float, _seconds("timeout of one storage request in seconds", panels.STORAGE)] = 60.0,
    restart: Annotated[bool, typer.Option("--restart", help="discard what an earlier run wrote to OUTPUT")] = False,
    grace: Annotated[float, _seconds("seconds for running units to finish after SIGTERM or Ctrl-C")] = 60.0,
    max_runtime: Annotated[
        float | None, _seconds("stop gracefully after this many seconds, with exit code 75, to resume")
    ] = None,
    unit_deadline: Annotated[
        float, _seconds("seconds, over 20 times its estimated duration, after which a unit on a cluster counts as lost")
    ] = 120.0,
    node_timeout: Annotated[float, _seconds("seconds after which a run ends while no node can run a unit")] = 1800.0,
    no_evaluate: Annotated[
        bool,
        typer.Option(
            "--no-evaluate",
            rich_help_panel=panels.EVALUATION,
            help="do not run the commands under `evaluate` of the recipe",
        ),
    ] = False,
    run_commands: Annotated[
        bool,
        typer.Option(
            "--run-commands",
            rich_help_panel=panels.EVALUATION,
            help="run them also for a recipe that is no local file",
        ),
    ] = False,
    if_changed: repeated.IfChanged = False,
    latest: repeated.Latest = False,
    keep: repeated.Keep = None,
    on_success: signalled.OnSuccess = None,
    on_failure: signalled.OnFailure = None,
    hook_timeout: signalled.HookTimeout = 300.0,
    notify: signalled.Notify = None,
    metrics_file: signalled.MetricsFile = None,
    metrics_push: signalled.MetricsPush = None,
    staging: uploaded.Staging = None,
    public: uploaded.Public = False,
    verbose: verbosity.Verbose = False,
    quiet: verbosity.Quiet = False,
    log_format: Annotated[
        logs.Format, typer.Option(rich_help_panel=panels.LOG, help="format of the log on standard error")
    ] = logs.Format.TEXT,
) -> None:
    """Plan, run, publish and verify a merge. Run the same command again to resume it.

    Without a recipe: svc-dist merge BASE EXPERT... --method NAME --output OUTPUT

    Example: svc-dist merge recipe.yaml merged/
    """
    summary = run_merge(dict(locals()))
    if log_format == logs.Format.TEXT and not quiet and summary.units_resumed < summary.units:  # merged just now
        from svc_dist.cli.overview.next_steps import next_steps

        tell("\n".join(next_steps(summary.output if "{" in output else output)))  # as typed, but for {date}


def run_merge(given: Mapping[str, Any]) -> MergeSummary:
    """Merge with the arguments and options of ``svc-dist merge``, by name, and say what that did."""
    log_format, quiet = given["log_format"], given["quiet"]
    logs.set_up(log_format, verbosity.level(given["verbose"], quiet))
    from svc_dist.api import merge as run
    from svc_dist.cli.texts import merge_line
    from svc_dist.run.process import return_freed_memory
    from svc_dist.run.series.nightly import Nightly

    return_freed_memory()
    with logs.prints_logged():
        summary = run(
            given["recipe"],
            given["output"],
            access=options.access_of(
                given["endpoint_url"], given["profile"], given["anonymous"], parallel=given["parallel"],
                deadline=given["storage_deadline"], timeout=given["storage_timeout"],
            ),
            evaluate=not given["no_evaluate"],
            progress=log_format == logs.Format.TEXT and not quiet and sys.stderr.isatty(),
            nightly=Nightly(given["if_changed"], given["latest"], given["keep"]),
            signals=signalled.signals_of(given),
            **{name: given[name] for name in _AS_GIVEN},
        )  # fmt: skip
    if log_format == logs.Format.JSON:
        logging.getLogger("svc_dist").info("done", extra={"fields": dataclasses.asdict(summary)})
    elif not quiet:
        tell(merge_line(summary))
    return summary


def status(
    output: options.RunOutput,
    as_json: options.Json = False,
    watched: Annotated[
        bool, typer.Option("--watch", help="show it again until the merge runs no longer; exit with 0, 6 or 75")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="with --watch: seconds between")] = 5.0,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
) -> None:
    """Show the progress of a merge, from any shell.

    Example: svc-dist status merged/ --watch
    """
    from svc_dist.checks.status import read_status
    from svc_dist.cli.watch import show, watch

    read = functools.partial(read_status, output, options.access_of(endpoint_url, profile))
    if not watched:
        show(read(), as_json)
    elif code := watch(read, as_json, interval):
        raise typer.Exit(code)


def clean(
    output: options.RunOutput,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask for confirmation")] = False,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
) -> None:
    """Remove what an abandoned merge left. Partial files or uploads, and its run folder. Asks for confirmation.

    Example: svc-dist clean s3://bucket/merged
    """
    from svc_dist.checks.clean import clean as remove
    from svc_dist.checks.clean import look
    from svc_dist.run_folder.output import Output

    target = Output(output, options.access_of(endpoint_url, profile))
    tell(look(target).text())
    if not yes:
        try:
            sure = typer.confirm("remove?")
        except typer.Abort:
            raise RecipeError("nothing was removed: nobody confirmed", "add --yes to run without a terminal") from None
        if not sure:
            tell("nothing was removed")
            return
    remove(target)
    tell("removed")
