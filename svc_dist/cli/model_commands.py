"""Commands about models, experts and methods: inspect, extract, report, verify, smoke, diff, methods, demo."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from svc_dist.cli import options
from svc_dist.cli.arguments import takes_models
from svc_dist.cli.streams import logs, verbosity
from svc_dist.cli.streams.terminal import OK, WARNING, WRONG, say, say_json, tell
from svc_dist.errors import VerificationError
from svc_dist.plan.settings import Device
from svc_dist.recipe.resolved import ResolvedRecipe


@takes_models(output="none")
def inspect(
    recipe: str | ResolvedRecipe,
    changes: dict[str, Any],
    layers: Annotated[
        str | None, typer.Option(help="inspect only these layers, such as 0,10,20-23", metavar="LIST")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--html", help="also write a page with all figures", metavar="FILE")
    ] = None,
    as_json: options.Json = False,
    slots: options.Slots = None,
    device: options.Device = Device.AUTO,
    precision: options.Precision = None,
    threads_per_unit: options.Threads = None,
    scratch: options.Scratch = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
    verbose: verbosity.Verbose = False,
    quiet: verbosity.QuietLog = False,
) -> None:
    """Show how much the sum of the experts over-counts. Also shows which experts overlap, by layer. Merges nothing.

    Example: svc-dist inspect recipe.yaml --layers 0,10,20
    """
    options.require_writable_file(page, "--html")
    logs.set_up(logs.Format.TEXT, verbosity.level(verbose, quiet))
    from svc_dist.api import inspect as run
    from svc_dist.report.diagnosis import Diagnosis
    from svc_dist.report.differences import difference_lines
    from svc_dist.report.page import render
    from svc_dist.report.page_file import PageFile
    from svc_dist.report.verdict import inspection_text
    from svc_dist.run.process import return_freed_memory

    return_freed_memory()
    report = run(
        recipe, layers, changes=changes, access=options.access_of(endpoint_url, profile, anonymous), slots=slots,
        precision=precision, threads_per_unit=threads_per_unit, device=device, scratch=scratch,
        progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    if page is not None:
        name = Path(recipe).name if isinstance(recipe, str) else ", ".join(one.names[-1] for one in recipe.models[1:])
        file = PageFile(None, page)
        file.require_own(report)
        file.write(render(report, f"Inspection of {name}"))
        say(f"wrote {file.location}", err=True)
    if as_json:
        say_json(json.dumps(dataclasses.asdict(report)))
        return
    diagnosis = Diagnosis(report)
    say("\n".join([inspection_text(diagnosis), "", *difference_lines(diagnosis)]))


def extract(
    base: Annotated[str, typer.Argument(help="folder, URL or hub id of the base model", metavar="BASE")],
    model: Annotated[str, typer.Argument(help="folder, URL or hub id of the fine-tuned model", metavar="MODEL")],
    output: Annotated[str, typer.Argument(help="folder or URL for the adapter", metavar="OUTPUT")],
    rank: Annotated[int, typer.Option(min=1, metavar="R", help="rank of each pair of factors")] = 32,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="only tensors whose name matches, such as '*_proj.weight'; can be repeated", metavar="PATTERN"
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="leave tensors whose name matches as in BASE; can be repeated", metavar="PATTERN"),
    ] = None,
    save: Annotated[
        list[str] | None,
        typer.Option(
            help="save tensors whose name matches whole (modules_to_save), such as lm_head.weight; can be repeated",
            metavar="PATTERN",
        ),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of the factors; default: float32", metavar="DTYPE")] = None,
    untie: Annotated[
        bool, typer.Option("--untie", help="give an output head that is tied to the embedding factors of its own")
    ] = False,
    as_json: options.Json = False,
    slots: options.Slots = None,
    device: options.Device = Device.AUTO,
    precision: options.Precision = None,
    threads_per_unit: options.Threads = None,
    scratch: options.Scratch = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
    restart: Annotated[bool, typer.Option("--restart", help="discard what an earlier run wrote to OUTPUT")] = False,
    verbose: verbosity.Verbose = False,
    quiet: verbosity.Quiet = False,
) -> None:
    """Make a LoRA adapter of the difference between two models. Run the same command again to resume it.

    Short for a recipe with `output: adapter` and `rank`. States what the factors miss of each matrix.

    Example: svc-dist extract base/ chat/ adapter/ --rank 64
    """
    logs.set_up(logs.Format.TEXT, verbosity.level(verbose, quiet))
    from svc_dist.api import merge as run
    from svc_dist.cli.texts import merge_line
    from svc_dist.recipe.adapters.extraction import extraction_recipe
    from svc_dist.report.factor_errors import FactorErrors
    from svc_dist.run.process import return_freed_memory
    from svc_dist.run_folder.report import read_report

    return_freed_memory()
    access = options.access_of(endpoint_url, profile, anonymous)
    recipe = extraction_recipe(
        base,
        model,
        rank,
        include=include or (),
        exclude=exclude or (),
        save=save or (),
        dtype=dtype,
        untie=untie,
    )
    with logs.prints_logged():
        summary = run(
            recipe, output, slots=slots, device=device, precision=precision, threads_per_unit=threads_per_unit,
            scratch=scratch, access=access, restart=restart, progress=not quiet and sys.stderr.isatty(),
        )  # fmt: skip
    errors = FactorErrors.of(read_report(output, access))
    if as_json:
        say_json(json.dumps({"error": errors.total, "matrices": errors.matrices}))
        return
    if not quiet:
        tell("\n".join([merge_line(summary), *errors.lines()]))


def report(
    output: options.MergedModel,
    page: Annotated[
        Path | None, typer.Option("--html", help="page to write; default: merge_report.html in OUTPUT", metavar="FILE")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="also compare with this merged model, a folder or URL", metavar="OTHER")
    ] = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
) -> None:
    """Write a page about a finished merge. Over-counting, spectra, overlap, ranks, timings, provenance.

    It goes beside the model, on any storage. A page of another merge, and any other file, stays as it is.

    Example: svc-dist report merged/ --compare plain_sum/
    """
    options.require_writable_file(page, "--html")
    from svc_dist.api import write_report

    access = options.access_of(endpoint_url, profile, anonymous)
    for written in write_report(output, page, compare=compare, access=access):
        say(f"wrote {written}", err=True)


def verify(
    output: options.MergedModel,
    deep: Annotated[bool, typer.Option("--deep", help="read all data: checksums, NaN and Inf")] = False,
    as_json: options.Json = False,
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
    if as_json:
        say_json(json.dumps({"output": output} | result.data()))
    for label, colour, lines in (
        ("ok      ", OK, result.checked),
        ("skipped ", WARNING, result.skipped),
        ("WRONG   ", WRONG, result.problems),
    ) * (not as_json):
        for line in lines:
            say(line, label=label, colour=colour)
    if not result.ok:
        cure = "merge again into a new folder, or restore the files"
        cure = "check the path, or run the same merge again to resume" if result.unfinished else cure
        raise VerificationError(f"{output} has {counted(len(result.problems), 'problem')}", cure)


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
