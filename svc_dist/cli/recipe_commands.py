"""Commands about recipes themselves: recipe new, recipe fix, recipe explain, recipe schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svc_dist.cli import options
from svc_dist.cli.help import panels
from svc_dist.cli.streams.terminal import say
from svc_dist.errors import OutputError, PlanError, RecipeError, StorageError, SvcDistError

if TYPE_CHECKING:
    from svc_dist.checks.proposals.advice import Findings
    from svc_dist.recipe.resolved import ResolvedRecipe

#: Errors that the author of a recipe decides about.
OPEN = (RecipeError, PlanError)

recipe = typer.Typer(
    cls=panels.GroupedCommands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


@recipe.callback()
def _about() -> None:
    """Write, repair and explain recipes. Each has a command of its own.

    Example: svc-dist recipe explain unknown-key
    """


NewFile = Annotated[
    Path | None, typer.Option("--output", help="new file for the recipe; default: standard output", metavar="FILE")
]


@recipe.command(cls=panels.GroupedCommand)
def new(
    base: Annotated[str, typer.Argument(help="base model: folder, URL or hub id", metavar="BASE")],
    experts: Annotated[
        list[str], typer.Argument(help="experts: a model, an adapter, or model+adapter each", metavar="EXPERT...")
    ],
    output: NewFile = None,
    look: Annotated[
        bool, typer.Option("--inspect", help="read the weights, and choose by what the deltas show")
    ] = False,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
) -> None:
    """Write a commented recipe for models. Proposes a method and a calibration, and plans it; merges nothing.

    Example: svc-dist recipe new base/ code/ math/ --output recipe.yaml
    """
    _require_new(output)
    from svc_dist.checks.proposals.proposal import propose

    access = options.access_of(endpoint_url, profile, anonymous)
    folder = (output or Path("recipe.yaml")).absolute().parent
    done = propose(base, experts, folder, access, _findings if look else None)
    _write(done.text, output, done.notes)


@recipe.command(cls=panels.GroupedCommand)
def fix(
    file: Annotated[Path, typer.Argument(help="recipe (YAML), also mergekit's", metavar="FILE")],
    output: NewFile = None,
    endpoint_url: options.Endpoint = None,
    profile: options.Profile = None,
    anonymous: options.Anonymous = False,
) -> None:
    """Write a recipe anew in svc_dist's own terms. With a comment above each change; the result stays the same.

    Example: svc-dist recipe fix mergekit.yml --output recipe.yaml
    """
    _require_new(output, beside=file)
    from svc_dist.checks.proposals.planning import planned
    from svc_dist.recipe.writing.fix import fix as fixed
    from svc_dist.recipe.writing.repairs import with_comment

    done = fixed(file)
    text, notes = done.text, [*done.changes]
    if not done.left_open:
        folder = file.absolute().parent
        error = planned(text, str(file), folder, options.access_of(endpoint_url, profile, anonymous))
        if isinstance(error, OPEN):
            text = with_comment(text, str(file), error)
            notes.append(f"left open: {error.message.splitlines()[0]}")
        elif isinstance(error, SvcDistError):
            notes.append(f"not planned: {error.message.splitlines()[0]}")
    _write(text, output, notes or ["nothing to change"])


@recipe.command(cls=panels.GroupedCommand)
def explain(
    code: Annotated[
        str | None, typer.Argument(help="code of an error or a warning; default: list all codes", metavar="CODE")
    ] = None,
) -> None:
    """Explain an error or a warning. What it means, what to do, an example, and what mergekit does.

    Example: svc-dist recipe explain vocab-differs
    """
    from svc_dist.recipe.writing.explanations import explain as explanation
    from svc_dist.recipe.writing.explanations import explanations

    if code is not None:
        say(explanation(code.strip("[]")).text())
        return
    width = max(map(len, explanations()))
    for one in sorted(explanations().values(), key=lambda one: (one.kind, one.code)):
        say(f"{one.code:{width}s}  {one.what}")


@recipe.command(cls=panels.GroupedCommand)
def schema() -> None:
    """Print the JSON schema of recipes. Editors complete and check recipes with it.

    Example: svc-dist recipe schema > recipe.schema.json
    """
    from svc_dist.recipe.writing.json_schema import render

    say(render(), end=False)


def _findings(recipe: ResolvedRecipe) -> Findings:
    """What an inspection of a recipe's deltas shows."""
    from svc_dist.checks.over_counting import inspect
    from svc_dist.checks.proposals.advice import Findings
    from svc_dist.plan.settings import SettingsRequest
    from svc_dist.report.diagnosis import Diagnosis

    diagnosis = Diagnosis(inspect(recipe, settings=SettingsRequest()))
    norms = diagnosis.norms()[1]
    mean = tuple(float(norm) for norm in norms.mean(axis=0)) if norms.size else ()
    return Findings(diagnosis.gamma(), diagnosis.times_counted(), diagnosis.mean_cosine(), mean)


def _require_new(output: Path | None, beside: Path | None = None) -> None:
    """Raise OutputError or RecipeError, before any work, for a file that exists or cannot be written.

    ``beside``: the recipe whose relative paths the new one has too.
    """
    options.require_writable_file(output, "--output")
    if output is None:
        return
    if output.exists():
        raise OutputError(f"--output is {output}, which exists", "name a new file")
    if beside is not None and output.absolute().parent.resolve() != beside.absolute().parent.resolve():
        raise OutputError(
            f"--output is {output}, but a recipe's paths are relative to its folder",
            f"name a file in {beside.absolute().parent}",
        )


def _write(text: str, output: Path | None, notes: Sequence[str]) -> None:
    """Write a recipe to a new file or to standard output, and say on standard error what was done."""
    for note in notes:
        say(note, err=True)
    if output is None:
        say(text, end=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise OutputError(f"--output is {output}, which exists", "name a new file") from None
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}", "name another file as --output") from None
    say(f"wrote {output}", err=True)
