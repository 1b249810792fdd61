"""Commands that look ahead of a merge: plan, measure-host, doctor."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from svc_dist.cli import options
from svc_dist.cli.arguments import takes_models
from svc_dist.cli.hub import uploaded
from svc_dist.cli.streams.terminal import OK, WARNING, WRONG, say, say_json
from svc_dist.plan.settings import Device
from svc_dist.recipe.resolved import ResolvedRecipe

_PATIENCE = 20.0  # seconds for a storage that does not answer a plan, for which somebody waits


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
            "host=FILE,slots=2; with price=12.50 also what that costs, at so much for a machine and hour",
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
    every_name: Annotated[bool, typer.Option("--verbose", "-v", help="list every tensor by its name")] = False,
) -> None:
    """Show what a merge would do, or how long it would take. Reads headers only, and rows of some matrices for `auto`.

    Example: svc-dist plan recipe.yaml --cluster nodes=4,gpus=8,gpu=h100,net=25Gbps
    """
    from svc_dist.api import make_plans, predict

    access = options.access_of(endpoint_url, profile, anonymous, deadline=_PATIENCE)
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
    from svc_dist.cli.overview.needs import needs, needs_lines, shortages
    from svc_dist.cli.texts import plans_lines
    from svc_dist.scoring.evaluate import evaluation_lines

    rows = needs(plans, where, access)
    more = (*uploaded.upload_lines(output, staging, plans), *evaluation_lines(recipe, where, changes, access))
    say("\n".join((*plans_lines(plans, every_name), *more, "", *needs_lines(rows))))
    for warning in (*(warning for planned in plans for warning in planned.warnings), *shortages(rows)):
        say(warning, label="warning:", colour=WARNING)


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
    """Measure how fast this machine reads, computes and writes. Takes a minute or two; run nothing else meanwhile.

    Example: svc-dist measure-host host.json && svc-dist plan recipe.yaml --cluster host=host.json
    """
    options.require_writable_file(file, "FILE")
    options.require_writable_folder(folder, "--folder")
    from svc_dist.forecast.measure_host import measure_host as measure
    from svc_dist.run.process import return_freed_memory

    return_freed_memory()  # as in the processes that run units, which pay for it
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
    staging: uploaded.Staging = None,
    public: uploaded.Public = False,
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
    from svc_dist.run.hub.staged import Staging

    findings = []
    for finding in examine(
        recipe, output, SettingsRequest(precision, threads_per_unit, device), slots=slots, scratch=scratch,
        max_shard_size=max_shard_size, changes=changes, staging=Staging(staging, public),
        access=options.access_of(endpoint_url, profile, anonymous),
    ):  # fmt: skip
        label, colour = ("ok    ", OK) if finding.problem is None else ("WRONG ", WRONG)
        if not as_json:
            say(finding.text(), label=label, colour=colour)
        findings.append(finding)
    examination = Examination(tuple(findings))
    if as_json:
        say_json(json.dumps(examination.data()))
    if not examination.ok:
        raise typer.Exit(examination.exit_code)
