"""The command line: options in, words and exit codes out. No logic of its own."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svc_dist.cli import logs
from svc_dist.errors import ExitCode, RecipeError, StorageError, VerificationError

if TYPE_CHECKING:
    from svc_dist.run_folder.report import MergeReport
    from svc_dist.storage.access import Access

app = typer.Typer(
    name="svc-dist",
    help="Merge fine-tuned experts of very large models: out of core, resumable, spectrally calibrated.",
    epilog="Exit codes: 0 done and verified, 2 recipe or usage, 3 input damaged or changed, 4 storage, 5 another live "
    "run holds the output, 6 some units failed (resumable), 70 internal, 75 stopped as asked, or the cluster was lost "
    "(try again).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeArgument = Annotated[Path, typer.Argument(help="the recipe (YAML)", metavar="RECIPE")]
Precision = Annotated[
    str | None,
    typer.Option(help="mixed (default), fast or float64: how exactly spectral methods compute", metavar="LEVEL"),
]
ShardSize = Annotated[
    str | None, typer.Option(help="largest shard, e.g. 5GB or 4GiB; default: the recipe's, else 5GB", metavar="SIZE")
]
Threads = Annotated[
    int | None,
    typer.Option(help="threads that one unit computes with; fixed when a run is created (default 1 on the CPU)"),
]


Endpoint = Annotated[
    str | None, typer.Option(help="S3-compatible store, where the recipe says nothing (also: AWS_ENDPOINT_URL)")
]
Profile = Annotated[str | None, typer.Option(help="AWS profile, where the recipe says nothing (also: AWS_PROFILE)")]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="read public data without credentials")]


def _version(asked: bool) -> None:
    if asked:
        from svc_dist import __version__

        typer.echo(f"svc-dist {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Merge fine-tuned experts of very large models: out of core, resumable, spectrally calibrated."""


@app.command()
def merge(
    recipe: RecipeArgument,
    output: Annotated[str, typer.Argument(help="folder or URL for the merged model", metavar="OUTPUT")],
    executor: Annotated[
        str,
        typer.Option(help="auto, inline (threads in this process) or ray; auto: inline on one device", metavar="KIND"),
    ] = "auto",
    address: Annotated[str | None, typer.Option(help="Ray cluster to run on, e.g. auto or 10.0.0.1:6379")] = None,
    slots: Annotated[int | None, typer.Option(help="units at once; default: by cores or devices, at least 2")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    precision: Precision = None,
    threads_per_unit: Threads = None,
    max_shard_size: ShardSize = None,
    scratch: Annotated[
        str | None, typer.Option(help="folder for ranges of remote inputs; default: the system's temporary folder")
    ] = None,
    endpoint_url: Endpoint = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
    parallel: Annotated[int, typer.Option(help="storage requests in flight for one unit")] = 16,
    storage_deadline: Annotated[
        float, typer.Option(help="seconds for which a storage request that fails for a passing reason is tried again")
    ] = 300.0,
    storage_timeout: Annotated[float, typer.Option(help="seconds after which a storage request has failed")] = 60.0,
    restart: Annotated[bool, typer.Option("--restart", help="discard what an earlier run put into OUTPUT")] = False,
    grace: Annotated[float, typer.Option(help="seconds that units in flight get after SIGTERM or Ctrl-C")] = 60.0,
    max_runtime: Annotated[
        float | None, typer.Option(help="seconds after which to stop in order, with exit code 75, to go on later")
    ] = None,
    unit_deadline: Annotated[
        float,
        typer.Option(help="seconds after which a unit on a cluster counts as lost, beside what its size explains"),
    ] = 1800.0,
    log_format: Annotated[str, typer.Option(help="text or json", metavar="FORMAT")] = "text",
) -> None:
    """Plan, run, publish and verify a merge. The same command again goes on where it stopped.

    Example: svc-dist merge recipe.yaml merged/
    """
    _logging(log_format)
    from svc_dist.api import merge as run
    from svc_dist.run.process import return_freed_memory
    from svc_dist.sizes import format_size

    return_freed_memory()
    with logs.prints_logged():
        report = run(
            recipe, output, executor=executor, address=address, slots=slots, device=device, precision=precision,
            threads_per_unit=threads_per_unit, max_shard_size=max_shard_size, scratch=scratch,
            access=_access(endpoint_url, profile, anonymous, parallel, storage_deadline, storage_timeout),
            restart=restart, grace=grace, max_runtime=max_runtime, unit_deadline=unit_deadline,
            progress=log_format == "text" and sys.stderr.isatty(),
        )  # fmt: skip
    if log_format == "json":
        logging.getLogger("svc_dist").info("done", extra={"fields": dataclasses.asdict(report)})
        return
    resumed = f", {report.units_resumed} of {report.units} units from an earlier start" if report.units_resumed else ""
    typer.echo(
        f"{report.output}: {report.tensors} tensors in {report.shards} shards, {format_size(report.bytes_out)}, "
        f"verified, in {report.seconds:.1f} s{resumed}"
    )


@app.command()
def plan(
    recipe: RecipeArgument,
    output: Annotated[
        str | None, typer.Argument(help="plan with the settings of the run there", metavar="[OUTPUT]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the whole plan, or the prediction, as JSON")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="simulate the merge there: nodes=4,gpus=8,gpu=h100,net=25Gbps or nodes=2,cpus=16 or host=FILE,slots=2",
            metavar="MACHINES",
        ),
    ] = None,
    precision: Precision = None,
    threads_per_unit: Threads = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    max_shard_size: ShardSize = None,
    endpoint_url: Endpoint = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Show what a merge would do. Reads headers only.

    Example: svc-dist plan recipe.yaml --cluster nodes=4,gpus=8,gpu=h100,net=25Gbps
    """
    from svc_dist.api import make_plan, predict

    access = _access(endpoint_url, profile, anonymous)
    if cluster is not None:
        if output is not None:
            raise typer.BadParameter("a prediction is of a new merge: leave OUTPUT out", param_hint="--cluster")
        found = predict(recipe, cluster, precision=precision, max_shard_size=max_shard_size, access=access)
        typer.echo(json.dumps(dataclasses.asdict(found)) if as_json else found.text())
        return
    made = make_plan(
        recipe,
        output,
        precision=precision,
        threads_per_unit=threads_per_unit,
        device=device,
        max_shard_size=max_shard_size,
        access=access,
    )
    if as_json:
        typer.echo(made.to_json())
        return
    from svc_dist.cli.texts import plan_lines

    for warning in made.warnings:
        typer.secho(f"warning: {warning}", fg="yellow")
    _print(plan_lines(made))


@app.command("calibrate-host")
def calibrate_host(
    file: Annotated[
        Path | None, typer.Argument(help="where to write the rates; left out: printed", metavar="[FILE]")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="on the disk to measure (default: the system's temporary folder)")
    ] = None,
    threads_per_unit: Annotated[int, typer.Option(help="threads that one unit computes with")] = 1,
    storage: Annotated[
        str | None, typer.Option(help="URL of a prefix to measure too, in which a folder is made and removed")
    ] = None,
    endpoint_url: Endpoint = None,
    profile: Profile = None,
) -> None:
    """Measure how fast this machine reads, computes and writes: a minute, best with nothing else running.

    Example: svc-dist calibrate-host host.json && svc-dist plan recipe.yaml --cluster host=host.json
    """
    from svc_dist.forecast.measure_host import calibrate

    text = calibrate(folder, threads_per_unit, storage, _access(endpoint_url, profile)).to_json()
    file.write_text(text) if file is not None else typer.echo(text, nl=False)


@app.command()
def verify(
    output: Annotated[str, typer.Argument(help="folder or URL of a merged model", metavar="OUTPUT")],
    deep: Annotated[bool, typer.Option("--deep", help="re-read all data: checksums, NaN, Inf")] = False,
    endpoint_url: Endpoint = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Check that a merged model is complete, well-formed and (with --deep) unchanged and finite.

    Example: svc-dist verify merged/ --deep
    """
    from svc_dist.checks.verify import verify as check

    result = check(output, deep, _access(endpoint_url, profile, anonymous))
    for text in result.checked:
        typer.echo(f"ok       {text}")
    for text in result.skipped:
        typer.echo(f"skipped  {text}")
    for text in result.problems:
        typer.echo(f"WRONG    {text}")
    if not result.ok:
        raise VerificationError(f"{output}: {len(result.problems)} problem{'s' * (len(result.problems) > 1)} found")


@app.command()
def inspect(
    recipe: RecipeArgument,
    layers: Annotated[str | None, typer.Option(help="only these layers, e.g. 0,10,20-23", metavar="LIST")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="write a page with plots, too", metavar="FILE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="all figures, as JSON")] = False,
    slots: Annotated[int | None, typer.Option(help="units at once")] = None,
    precision: Precision = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    scratch: Annotated[str | None, typer.Option(help="folder for ranges of remote inputs")] = None,
    endpoint_url: Endpoint = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Look at experts before any merge: how inflated their sum is, and which of them overlap where.

    Example: svc-dist inspect recipe.yaml --layers 0,10,20
    """
    from svc_dist.api import inspect as look
    from svc_dist.report.diagnosis import Diagnosis
    from svc_dist.run.process import return_freed_memory

    return_freed_memory()
    access = _access(endpoint_url, profile, anonymous)
    found = look(
        recipe, layers, access=access, slots=slots, precision=precision, device=device, scratch=scratch, tell=_count
    )
    if page is not None:
        _write_page(found, f"Inspection of {recipe.name}", page)
    typer.echo(json.dumps(dataclasses.asdict(found)) if as_json else Diagnosis(found).text())


@app.command()
def report(
    output: Annotated[str, typer.Argument(help="folder or URL of a merged model", metavar="OUTPUT")],
    page: Annotated[Path, typer.Option("--html", help="the page to write", metavar="FILE")] = Path("merge_report.html"),
    endpoint_url: Endpoint = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Write a page with plots of a merge: over-counting, spectra, overlap, ranks, timings, provenance.

    Example: svc-dist report merged/
    """
    from svc_dist.run_folder.report import read_report

    _write_page(read_report(output, _access(endpoint_url, profile, anonymous)), f"Merge {output}", page)


@app.command()
def smoke(
    output: Annotated[str, typer.Argument(help="folder of a merged model", metavar="OUTPUT")],
    prompt: Annotated[str, typer.Option(help="what a language model goes on from")] = "The capital of France is",
    tokens: Annotated[int, typer.Option(help="tokens that it goes on for", min=1)] = 16,
) -> None:
    """Load a merged model in transformers, on what devices there are, and run it once. Needs svc-dist[check].

    Example: svc-dist smoke merged/
    """
    from svc_dist.checks.smoke import smoke as run

    typer.echo(run(output, prompt, tokens).text())


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="folder or URL of a model", metavar="A")],
    b: Annotated[str, typer.Argument(help="folder or URL of another", metavar="B")],
    most: Annotated[int, typer.Option(help="tensors shown, those that differ most first", min=0)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="every tensor, as JSON")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="end with 1 when they differ")] = False,
    scratch: Annotated[str | None, typer.Option(help="folder for ranges of remote models")] = None,
    endpoint_url: Endpoint = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Compare two models tensor by tensor: identical, largest difference, relative norm, cosine.

    Example: svc-dist diff base/ merged/
    """
    from svc_dist.checks.diff import diff as compare

    found = compare(a, b, _access(endpoint_url, profile, anonymous), scratch)
    typer.echo(json.dumps(found.data()) if as_json else found.text(most))
    if exit_code and not found.same:
        raise typer.Exit(1)


@app.command()
def status(
    output: Annotated[str, typer.Argument(help="folder or URL of a merge", metavar="OUTPUT")],
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    endpoint_url: Endpoint = None,
    profile: Profile = None,
) -> None:
    """Show how far a merge is, from any shell.

    Example: svc-dist status merged/
    """
    from svc_dist.checks.status import read_status

    found = read_status(output, _access(endpoint_url, profile))
    typer.echo(json.dumps(dataclasses.asdict(found)) if as_json else found.text())


@app.command()
def clean(
    output: Annotated[str, typer.Argument(help="folder or URL of a merge that did not end", metavar="OUTPUT")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    endpoint_url: Endpoint = None,
    profile: Profile = None,
) -> None:
    """Remove an abandoned merge: its partial files or uploads and its run folder, nothing else. Asks first.

    Example: svc-dist clean s3://bucket/merged
    """
    from svc_dist.checks.clean import clean as remove
    from svc_dist.checks.clean import look
    from svc_dist.run_folder.output import Output

    target = Output(output, _access(endpoint_url, profile))
    typer.echo(look(target).text())
    if not yes:
        try:
            sure = typer.confirm("remove?")
        except typer.Abort:
            raise RecipeError("nothing was removed: nobody answered", "say --yes where nobody can be asked") from None
        if not sure:
            typer.echo("nothing was removed")
            return
    remove(target)
    typer.echo("removed")


@app.command()
def doctor(
    recipe: RecipeArgument,
    output: Annotated[str, typer.Argument(help="folder or URL for the merged model", metavar="OUTPUT")],
    scratch: Annotated[str | None, typer.Option(help="folder for ranges of remote inputs")] = None,
    endpoint_url: Endpoint = None,
    profile: Profile = None,
    anonymous: Anonymous = False,
) -> None:
    """Check in seconds what a merge needs, without reading weights: storages, scratch space, memory, devices, versions.

    Example: svc-dist doctor recipe.yaml s3://bucket/merged
    """
    from svc_dist.checks.doctor import examine

    code = ExitCode.DONE
    for finding in examine(recipe, output, scratch, _access(endpoint_url, profile, anonymous)):
        typer.echo(finding.text())
        code = code or finding.exit_code
    if code:
        raise typer.Exit(code)


@app.command()
def methods(
    markdown: Annotated[bool, typer.Option("--markdown", help="the whole page, with every parameter's range")] = False,
) -> None:
    """List the merge methods, calibrations and presets with their parameters and papers.

    Example: svc-dist methods
    """
    from svc_dist.cli.methods_page import render
    from svc_dist.cli.texts import method_lines

    typer.echo(render(), nl=False) if markdown else _print(method_lines())


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="where to put models and recipes")] = Path("svc-dist-demo"),
) -> None:
    """Train a small base and four experts, merge them three ways and compare: about a minute, no network.

    Example: svc-dist demo
    """
    from rich.console import Console

    from svc_dist.demo.demo import run_demo

    run_demo(folder, Console())


def _access(
    endpoint_url: str | None,
    profile: str | None,
    anonymous: bool = False,
    parallel: int = 16,
    deadline: float = 300.0,
    timeout: float = 60.0,
) -> Access:
    from svc_dist.storage.access import Access, ClientOptions, check_endpoint

    check_endpoint(endpoint_url, "--endpoint-url")
    if parallel < 1 or deadline < 0 or timeout <= 0:
        raise typer.BadParameter("--parallel is at least 1, --storage-deadline at least 0, --storage-timeout above 0")
    options = ClientOptions(endpoint_url=endpoint_url, profile=profile, anonymous=anonymous or None)
    return Access.for_s3(options, parallel=parallel, timeout=timeout, deadline=deadline)


def _write_page(report: MergeReport, title: str, page: Path) -> None:
    from svc_dist.report.page import render

    try:
        page.write_text(render(report, title), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {page}: {error.strerror}") from None
    typer.echo(f"{page} written", err=True)


def _count(done: int, of: int) -> None:
    """A line that overwrites itself, on a terminal."""
    if sys.stderr.isatty():
        typer.echo(f"\r{done}/{of} units" + ("\n" if done == of else ""), err=True, nl=False)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _logging(log_format: str) -> None:
    if log_format not in ("text", "json"):
        raise typer.BadParameter(f"'{log_format}' is not text or json", param_hint="--log-format")
    logs.set_up(log_format == "json")
