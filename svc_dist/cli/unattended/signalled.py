"""The options that say whom a merge tells its result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svc_dist.cli.help import panels
from svc_dist.errors import SvcDistError

if TYPE_CHECKING:
    from svc_dist.run.signals.reporter import Signals

_ENVIRONMENT = "with SVC_DIST_STATE, SVC_DIST_EXIT_CODE, SVC_DIST_OUTPUT, SVC_DIST_RUN_ID, SVC_DIST_ERROR and "
_ENVIRONMENT += "SVC_DIST_SECONDS in its environment"

OnSuccess = Annotated[
    str | None,
    typer.Option(
        metavar="CMD",
        rich_help_panel=panels.SIGNALS,
        help=f"shell command to run after exit code 0 (merged, or nothing to do), {_ENVIRONMENT}",
    ),
]
OnFailure = Annotated[
    str | None,
    typer.Option(
        help="shell command to run after a failure: any exit code but 0, 5 (another run is at work) and 75 (stopped)",
        metavar="CMD",
        rich_help_panel=panels.SIGNALS,
    ),
]
HookTimeout = Annotated[
    float,
    typer.Option(
        min=0.1,
        metavar="SECONDS",
        rich_help_panel=panels.SIGNALS,
        help="seconds after which such a command is killed",
    ),
]
Notify = Annotated[
    str | None,
    typer.Option(
        envvar="SVC_DIST_NOTIFY",
        rich_help_panel=panels.SIGNALS,
        help="URL that gets the result as JSON in a POST request, retried for 30 s; no message shows more of it than "
        "its host",
        metavar="URL",
    ),
]
MetricsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=panels.SIGNALS,
        help="text file with metrics for Prometheus (node_exporter), such as merge.prom",
    ),
]
MetricsPush = Annotated[
    str | None,
    typer.Option(
        envvar="SVC_DIST_METRICS_PUSH",
        metavar="URL",
        rich_help_panel=panels.SIGNALS,
        help="Prometheus pushgateway that gets the metrics",
    ),
]


def signals_of(given: Mapping[str, Any]) -> Signals:
    """The signals that a command's options ask for. Raises RecipeError, StorageError."""
    from svc_dist.run.signals.reporter import Signals

    names = ("on_success", "on_failure", "notify", "metrics_file", "metrics_push", "hook_timeout")
    return Signals(**{name: given[name] for name in names})


@contextlib.contextmanager
def early_failures_told(given: Mapping[str, Any], output: str) -> Iterator[None]:
    """Tell also of a command that fails by its arguments, before it begins to merge."""
    try:
        yield
    except SvcDistError:
        if "on_failure" in given:
            from svc_dist.run.signals.reporter import reporting

            with reporting(signals_of(given), output):
                raise
        raise
