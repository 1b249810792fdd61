"""Commands about models, experts and methods: inspect, report, verify, smoke, diff, methods, demo."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svc_dist.cli import options
from svc_dist.cli.arguments import takes_models
from svc_dist.cli.terminal import say, say_json
from svc_dist.errors import VerificationError
from svc_dist.plan.settings import Device
from svc_dist.recipe.resolved import ResolvedRecipe

if TYPE_CHECKING:
    from svc_dist.run_folder.report import MergeReport


@takes_models(output="none")
def inspect(
    recipe: str | ResolvedRecipe,
    changes: dict[str, Any],
    layers: Annotated[
        str | None, typer.Option(help="inspect only these layers, such as 0,10,20-23", metavar="LIST")
    ] = None,
    page: Annotated[Path | None, typer.Option("--html", help="also write a page with plots", metavar="FILE")] = None,
    as_json: options.Json = False,
    slots: options.Slots = None,
    device: options.Device = Device.AUTO,
    precision: options.Precision = None,
    threads_per_unit: options.Threads = None,
    scratch: options.Scratch = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
) -> None:
    """Show how much the sum of the experts over-counts. Also shows which experts overlap, by layer. Merges nothing.

    Example: svc-dist inspect recipe.yaml --layers 0,10,20
    """
    options.require_writable_file(page, "--html")
    from svc_dist.api import inspect as run
    from svc_dist.report.diagnosis import Diagnosis
    from svc_dist.run.process import return_freed_memory

    return_freed_memory()
    report = run(
        recipe, layers, changes=changes, access=options.access_of(endpoint_url, profile, anonymous), slots=slots,
        precision=precision, threads_per_unit=threads_per_unit, device=device, scratch=scratch, progress=_count,
    )  # fmt: skip
    if page is not None:
        name = Path(recipe).name if isinstance(recipe, str) else ", ".join(one.names[-1] for one in recipe.models[1:])
        _write_page(report, f"Inspection of {name}", page)
    say_json(json.dumps(dataclasses.asdict(report))) if as_json else say(Diagnosis(report).text())


def report(
    output: options.MergedModel,
    page: Annotated[Path, typer.Option("--html", help="page to write", metavar="FILE")] = Path("merge_report.html"),
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
) -> None:
    """Write a page with plots of a finished merge. Over-counting, spectra, overlap, ranks, timings, provenance.

    Example: svc-dist report merged/
    """
    options.require_writable_file(page, "--html")
    from svc_dist.run_folder.report import read_report

    _write_page(read_report(output, options.access_of(endpoint_url, profile, anonymous)), f"Merge {output}", page)


def verify(
    output: options.MergedModel,
    deep: Annotated[bool, typer.Option("--deep", help="read all data: checksums, NaN and Inf")] = False,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
) -> None:
    """Check that a merged model is complete and well-formed. With --deep also that it is unchanged and finite.

    Example: svc-dist verify merged/ --deep
    """
    from svc_dist.checks.verify import verify as check
    from svc_dist.sizes import counted

    result = check(output, deep, options.access_of(endpoint_url, profile, anonymous))
    for label, colour, lines in (
        ("ok      ", "green", result.checked),
        ("skipped ", "yellow", result.skipped),
        ("WRONG   ", "red", result.problems),
    ):
        for line in lines:
            say(line, label=label, colour=colour)
    if not result.ok:
        raise VerificationError(f"{output} has {counted(len(result.problems), 'problem')}")


def smoke(
    output: Annotated[str, typer.Argument(help="folder of a merged model", metavar="OUTPUT")],
    prompt: Annotated[str, typer.Option(help="prompt for a language model")] = "The capital of France is",
    tokens: Annotated[int, typer.Option(help="number of tokens to generate", metavar="N", min=1)] = 16,
) -> None:
    """Load a merged model in transformers and run it once. Uses all available devices. Needs svc-dist[check].

    Example: svc-dist smoke merged/
    """
    from svc_dist.checks.smoke import smoke as run

    say(run(output, prompt, tokens).text())


def diff(
    a: Annotated[str, typer.Argument(help="folder or URL of a model", metavar="A")],
    b: Annotated[str, typer.Argument(help="folder or URL of another model", metavar="B")],
    most: Annotated[
        int, typer.Option(help="number of tensors to list, the most different first", metavar="N", min=0)
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print every tensor, as JSON")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="exit with 1 if the models differ")] = False,
    scratch: options.Scratch = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
) -> None:
    """Compare two models tensor by tensor. Shows the largest difference, relative norm and cosine of each.

    Example: svc-dist diff base/ merged/
    """
    from svc_dist.checks.diff import diff as compare

    difference = compare(a, b, options.access_of(endpoint_url, profile, anonymous), scratch)
    say_json(json.dumps(difference.data())) if as_json else say(difference.text(most))
    if exit_code and not difference.same:
        raise typer.Exit(1)


def methods(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print a page in Markdown, with the range of every parameter")
    ] = False,
) -> None:
    """List merge methods, calibrations and presets. With their parameters and papers.

    Example: svc-dist methods
    """
    from svc_dist.cli.methods_page import method_lines, render

    say(render() if markdown else "\n".join(method_lines()), end=not markdown)


def demo(
    folder: Annotated[Path, typer.Argument(help="folder for the models and recipes", metavar="FOLDER")] = Path(
        "svc-dist-demo"
    ),
) -> None:
    """Train a small base and experts, merge and compare them. Four experts, merged in six ways, in about a minute.

    Example: svc-dist demo
    """
    from rich.console import Console

    from svc_dist.demo.demo import run_demo

    run_demo(folder, Console())


def _write_page(report: MergeReport, title: str, page: Path) -> None:
    from svc_dist.report.page import render

    options.write_file(page, render(report, title), "--html")
    say(f"wrote {page}", err=True)


def _count(done: int, of: int) -> None:
    """Print the number of units done on one line of a terminal."""
    if sys.stderr.isatty():
        typer.echo(f"\r{done:d} of {of:d} units" + ("\n" if done == of else ""), err=True, nl=False)
