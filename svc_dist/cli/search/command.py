"""The command ``svc-dist search``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from svc_dist.cli import options
from svc_dist.cli.streams import logs, verbosity
from svc_dist.cli.streams.terminal import say_json, tell
from svc_dist.plan.settings import Device
from svc_dist.run.options import ExecutorKind
from svc_dist.scoring.search.samplers import Sampler


def search(
    recipe: Annotated[str, typer.Argument(help="recipe (YAML)", metavar="RECIPE", callback=options.require_text)],
    folder: Annotated[
        str | None,
        typer.Argument(help="local folder of the search; default: the recipe's name with -search", metavar="FOLDER"),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="shell command with {output} for a merged model, whose last line of output is its score; default: the "
            "recipe's `evaluate`",
            metavar="COMMAND",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="how many; default: every combination of lists, else 20"),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            help="also search KEY=LOW:HIGH or KEY=A,B,C, such as lambda=0.2:1.0; can be repeated", metavar="KEY=VALUES"
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="which number counts, where the command gives several", metavar="NAME")
    ] = None,
    minimise: Annotated[bool, typer.Option("--minimise", "--minimize", help="a lower score is better")] = False,
    sampler: Annotated[
        Sampler,
        typer.Option(
            help="grid: every combination; random: spread over the ranges; bayes: by the scores so far, needs "
            "svc-dist[search]; auto: grid where every combination is tried, else random"
        ),
    ] = Sampler.AUTO,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="seed of random and bayes")] = 0,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="models that one pass over the experts makes; default: 4")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="after which a score command is stopped")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep the models of all trials")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="discard the trials in FOLDER")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="merge and score trials again that have no score")
    ] = False,
    run_commands: Annotated[
        bool, typer.Option("--run-commands", help="run `evaluate` also of a recipe that is no local file")
    ] = False,
    changes: options.Changes = None,
    address: options.Address = None,
    slots: options.Slots = None,
    device: options.Device = Device.AUTO,
    precision: options.Precision = None,
    threads_per_unit: options.Threads = None,
    scratch: options.Scratch = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
    as_json: options.Json = False,
    verbose: verbosity.Verbose = False,
    quiet: verbosity.Quiet = False,
) -> None:
    """Find the values of a recipe with the best score. Run the same command again to resume it.

    A command of yours scores each merge. Several trials share one pass over the experts. Their models are removed once
    they are scored. FOLDER gets a table, a page with plots and the best recipe.

    Example: svc-dist search recipe.yaml --over lambda=0.2:1.0 --score 'python score.py {output}' --trials 12
    """
    logs.set_up(logs.Format.TEXT, verbosity.level(verbose, quiet))
    from svc_dist.plan.settings import SettingsRequest
    from svc_dist.recipe.edits.changes import parse_changes
    from svc_dist.run.options import Options
    from svc_dist.run.process import return_freed_memory
    from svc_dist.scoring.search.search import PAGE_FILE, SearchRequest
    from svc_dist.scoring.search.search import search as run

    return_freed_memory()
    request = SearchRequest(
        command=score, trials=trials, over=tuple(over or ()), metric=metric, minimise=minimise, sampler=sampler,
        seed=seed, batch=batch, timeout=timeout, keep=keep, restart=restart, retry_failed=retry_failed,
        run_commands=run_commands,
    )  # fmt: skip
    merging = Options(
        executor=ExecutorKind.AUTO, address=address, slots=slots, scratch=scratch,
        progress=not quiet and sys.stderr.isatty(),
        settings=SettingsRequest(precision, threads_per_unit, device),
    )  # fmt: skip
    where = folder or f"{'recipe' if recipe == '-' else Path(recipe).stem}-search"
    access = options.access_of(endpoint_url, profile, anonymous)
    with logs.prints_logged():
        outcome = run(recipe, where, request, merging, parse_changes(changes or ()), access)
    if as_json:
        say_json(json.dumps(outcome.data()))
        return
    if quiet:
        return
    for line in outcome.table():
        tell(line)
    best = outcome.best
    if best is not None:
        which = "the recipe as it is" if not best.values else f"trial {best.number}"
        tell(f"best: {which}, score {outcome.score(best):.6g}; its recipe is {outcome.recipe}")
    tell(f"plots: {where}/{PAGE_FILE}")
