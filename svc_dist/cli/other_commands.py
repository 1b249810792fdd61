"""Commands that need no merge: methods, measure-host, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from svc_dist.cli import options


def methods(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print a page in Markdown, with the range of every parameter")
    ] = False,
) -> None:
    """List merge methods, calibrations and presets. With their parameters and papers.

    Example: svc-dist methods
    """
    from svc_dist.cli.methods_page import method_lines, render

    typer.echo(render() if markdown else "\n".join(method_lines()), nl=not markdown)


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
    """Measure how fast this machine reads, computes and writes. Takes a minute; run nothing else meanwhile.

    Example: svc-dist measure-host host.json && svc-dist plan recipe.yaml --cluster host=host.json
    """
    options.require_writable_file(file, "FILE")
    options.require_writable_folder(folder, "--folder")
    from svc_dist.forecast.measure_host import measure_host as measure

    text = measure(folder, threads_per_unit, storage, options.access_of(endpoint_url, profile)).to_json()
    if file is None:
        typer.echo(text, nl=False)
    else:
        options.write_file(file, text, "FILE")


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
