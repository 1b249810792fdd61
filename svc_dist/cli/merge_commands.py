"""Commands about one merge and its machines: merge, plan, measure-host, doctor, status, clean."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from svc_dist.cli import options
from svc_dist.cli.arguments import takes_models
from svc_dist.cli.hub import uploaded
from svc_dist.cli.streams import logs
from svc_dist.cli.streams.terminal import say, say_json
from svc_dist.cli.unattended import repeated, signalled
from svc_dist.errors import RecipeError
from svc_dist.plan.settings import Device
from svc_dist.recipe.resolved import ResolvedRecipe
from svc_dist.run.options import ExecutorKind


def _seconds(about: str) -> Any:
    return typer.Option(min=0, metavar="SECONDS", help=about)


@takes_models(output="required")
def merge(
    recipe: str | ResolvedRecipe,
    output: str,
    changes: dict[str, Any],
    executor: Annotated[
        str,
        typer.Option(
            callback=options.executor_name,
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
        typer.Option("--mixed-gpus", help="use GPUs of several kinds: last bits depend on them"),
    ] = False,
    max_shard_size: options.ShardSize = None,
    scratch: options.Scratch = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
    parallel: Annotated[int, typer.Option(min=1, metavar="N", help="storage requests in parallel for one unit")] = 16,
    storage_deadline: Annotated[float, _seconds("seconds during which a transient storage failure is retried")] = 300.0,
    storage_timeout: Annotated[float, _seconds("timeout of one storage request in seconds")] = 60.0,
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
        bool, typer.Option("--no-evaluate", help="do not run the commands under `evaluate` of the recipe")
    ] = False,
    run_commands: Annotated[
        bool, typer.Option("--run-commands", help="run them also for a recipe that is no local file")
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
    log_format: Annotated[logs.Format, typer.Option(help="format of the log on standard error")] = logs.Format.TEXT,
) -> Any:
    """Plan, run, publish and verify a merge. Run the same command again to resume it.

    Without a recipe: svc-dist merge BASE EXPERT... --method NAME --output OUTPUT

    Example: svc-dist merge recipe.yaml merged/
    """
    told: dict[str, Any] = {"on_success": on_success, "on_failure": on_failure, "hook_timeout": hook_timeout}
    told |= {"notify": notify, "metrics_file": metrics_file, "metrics_push": metrics_push}
    logs.set_up(log_format)
    from svc_dist.api import merge as run
    from svc_dist.cli.texts import merge_line
    from svc_dist.run.process import return_freed_memory
    from svc_dist.run.series.nightly import Nightly

    return_freed_memory()
    with logs.prints_logged():
        summary = run(
            recipe, output, executor=executor, address=address, slots=slots, device=device, precision=precision,
            threads_per_unit=threads_per_unit, mixed_gpus=mixed_gpus, max_shard_size=max_shard_size, changes=changes,
            scratch=scratch, access=options.access_of(
                endpoint_url, profile, anonymous, parallel=parallel, deadline=storage_deadline, timeout=storage_timeout
            ),
            restart=restart, grace=grace, max_runtime=max_runtime, unit_deadline=unit_deadline,
            node_timeout=node_timeout, evaluate=not no_evaluate, run_commands=run_commands,
            progress=log_format == logs.Format.TEXT and sys.stderr.isatty(), staging=staging, public=public,
            nightly=Nightly(if_changed, latest, keep), signals=signalled.signals_of(told),
        )  # fmt: skip
    if log_format == logs.Format.JSON:
        logging.getLogger("svc_dist").info("done", extra={"fields": dataclasses.asdict(summary)})
    else:
        say(merge_line(summary))
    return summary


@takes_models(output="optional")
def plan(
    recipe: str | ResolvedRecipe,
    output: str | None,
    changes: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="print the whole plan, or the prediction, as JSON")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="predict the time on these machines, such as nodes=4,gpus=8,gpu=h100,net=25Gbps, nodes=2,cpus=16 or "
            "host=FILE,slots=2",
            metavar="MACHINES",
        ),
    ] = None,
    precision: options.Precision = None,
    threads_per_unit: options.Threads = None,
    device: options.Device = Device.AUTO,
    max_shard_size: options.ShardSize = None,
    staging: uploaded.Staging = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
) -> None:
    """Show what a merge would do, or how long it would take. Reads headers, never weights.

    Example: svc-dist plan recipe.yaml --cluster nodes=4,gpus=8,gpu=h100,net=25Gbps
    """
    from svc_dist.api import make_plans, predict

    access = options.access_of(endpoint_url, profile, anonymous)
    if cluster is not None:
        fixed = {"OUTPUT": output, "--threads-per-unit": threads_per_unit, "--device": device != Device.AUTO}
        if excess := [name for name, value in fixed.items() if value]:
            problem = f"a prediction is for new runs on these machines: leave out {', '.join(excess)}"
            raise typer.BadParameter(problem, param_hint="--cluster")
        prediction = predict(
            recipe, cluster, precision=precision, max_shard_size=max_shard_size, changes=changes, access=access
        )
        say_json(json.dumps(dataclasses.asdict(prediction))) if as_json else say(prediction.text())
        return
    where = uploaded.place_for_plans(output, staging)
    plans = make_plans(
        recipe, where, precision=precision, threads_per_unit=threads_per_unit, device=device,
        max_shard_size=max_shard_size, changes=changes, access=access,
    )  # fmt: skip
    if as_json:
        say_json(plans[0].to_json() if len(plans) == 1 else f"[{', '.join(plan.to_json() for plan in plans)}]")
        return
    from svc_dist.cli.texts import plans_lines
    from svc_dist.scoring.evaluate import evaluation_lines

    for warning in (warning for planned in plans for warning in planned.warnings):
        say(warning, label="warning:", colour="yellow")
    more = (*uploaded.upload_lines(output, staging, plans), *evaluation_lines(recipe, where, changes, access))
    say("\n".join((*plans_lines(plans), *more)))


def measure_host(
    file: Annotated[
        Path | None, typer.Argument(help="file for the rates; default: standard output", metavar="FILE")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="folder on the disk to measure; default: the system's temporary folder")
    ] = None,
    threads_per_unit: Annotated[int, typer.Option(min=1, metavar="N", help="threads that compute one unit")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(help="also measure the storage under this URL; needs permission to write", metavar="URL"),
    ] = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
) -> None:
    """Measure how fast this machine reads, computes and writes. Takes a few minutes; run nothing else meanwhile.

    Example: svc-dist measure-host host.json && svc-dist plan recipe.yaml --cluster host=host.json
    """
    options.require_writable_file(file, "FILE")
    options.require_writable_folder(folder, "--folder")
    from svc_dist.forecast.measure_host import measure_host as measure

    text = measure(folder, threads_per_unit, storage, options.access_of(endpoint_url, profile)).to_json()
    if file is None:
        say(text, end=False)
    else:
        options.write_file(file, text, "FILE")


@takes_models(output="required")
def doctor(
    recipe: str | ResolvedRecipe,
    output: str,
    changes: dict[str, Any],
    device: options.Device = Device.AUTO,
    precision: options.Precision = None,
    threads_per_unit: options.Threads = None,
    max_shard_size: options.ShardSize = None,
    slots: options.Slots = None,
    scratch: options.Scratch = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
    as_json: options.Json = False,
) -> None:
    """Check in seconds whether a merge can run here. Storages, disk space, memory, devices and versions; no weights.

    Example: svc-dist doctor recipe.yaml s3://bucket/merged
    """
    from svc_dist.checks.doctor import examine
    from svc_dist.checks.examination import Examination
    from svc_dist.plan.settings import SettingsRequest

    findings = []
    for finding in examine(
        recipe, output, SettingsRequest(precision, threads_per_unit, device), slots=slots, scratch=scratch,
        max_shard_size=max_shard_size, changes=changes, access=options.access_of(endpoint_url, profile, anonymous),
    ):  # fmt: skip
        label, colour = ("ok    ", "green") if finding.problem is None else ("WRONG ", "red")
        if not as_json:
            say(finding.text(), label=label, colour=colour)
        findings.append(finding)
    examination = Examination(tuple(findings))
    if as_json:
        say_json(json.dumps(examination.data()))
    if not examination.ok:
        raise typer.Exit(examination.exit_code)


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
    say(look(target).text())
    if not yes:
        try:
            sure = typer.confirm("remove?")
        except typer.Abort:
            raise RecipeError("nothing was removed: nobody confirmed", "add --yes to run without a terminal") from None
        if not sure:
            say("nothing was removed")
            return
    remove(target)
    say("removed")
