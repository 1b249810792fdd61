"""The options that several commands share, and the checks of what they name before any work begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svc_dist.cli.help import panels
from svc_dist.errors import RecipeError, StorageError, printable
from svc_dist.linalg.precision import Precision as PrecisionLevel
from svc_dist.plan.settings import Device as DeviceKind
from svc_dist.run.executors import added_executors
from svc_dist.run.options import ExecutorKind
from svc_dist.storage.base import os_errors

if TYPE_CHECKING:
    from svc_dist.storage.access import Access


Precision = Annotated[
    PrecisionLevel | None,
    typer.Option(
        rich_help_panel=panels.RESULT,
        help="precision of spectral methods; default: that of the run in OUTPUT, else mixed",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=panels.RESULT,
        help="threads that compute one unit; default: those of the run in OUTPUT, else 1",
    ),
]
Device = Annotated[
    DeviceKind,
    typer.Option(
        rich_help_panel=panels.MACHINES,
        help="auto: the device of the run in OUTPUT, else CUDA where available, else the CPU",
    ),
]
ShardSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        rich_help_panel=panels.RESULT,
        help="largest shard, such as 5GB or 4GiB; default: the recipe's, else 5GB",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="replace a value of the recipe, such as parameters.lambda=0.4 or calibrate=none; can be repeated",
        metavar="KEY=VALUE",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        rich_help_panel=panels.MACHINES,
        help="address of a Ray cluster, such as auto or 10.0.0.1:6379",
    ),
]
Slots = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=panels.MACHINES,
        help="units that run in parallel; default: by cores or devices, at least 2",
    ),
]
Scratch = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=panels.MACHINES,
        help="folder for ranges of remote inputs; default: the system's temporary folder",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=panels.STORAGE,
        help="S3-compatible endpoint; the recipe takes precedence (also AWS_ENDPOINT_URL)",
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=panels.STORAGE,
        help="AWS profile; the recipe takes precedence (also AWS_PROFILE)",
    ),
]
Anonymous = Annotated[
    bool,
    typer.Option("--anonymous", rich_help_panel=panels.STORAGE, help="read public data without credentials"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def _output(about: str) -> Any:
    return typer.Argument(help=about, metavar="OUTPUT", callback=require_text)


def require_text(location: str) -> str:
    """A location that is not empty. Raises typer.BadParameter."""
    if not location.strip():
        raise typer.BadParameter("it is empty: name a folder or URL")
    return location


MergedModel = Annotated[str, _output("folder or URL of a merged model")]
RunOutput = Annotated[str, _output("folder or URL that a merge writes to")]


def access_of(
    endpoint_url: str | None, profile: str | None, anonymous: bool = False, *, timeout: float = 60.0, **limits: Any
) -> Access:
    """How a command reaches storages. ``limits``: ``parallel`` and ``deadline`` of ``Access``.

    Raises RecipeError for a malformed endpoint.
    """
    from svc_dist.storage.access import Access, ClientOptions, check_endpoint

    check_endpoint(endpoint_url, "--endpoint-url")
    if anonymous and profile is not None:
        raise typer.BadParameter("--anonymous uses no credentials: leave out --profile", param_hint="--anonymous")
    if not timeout > 0 or not limits.get("deadline", 0) >= 0:
        raise typer.BadParameter("must be a number of seconds above 0", param_hint="--storage-timeout")
    options = ClientOptions(endpoint_url=endpoint_url, profile=profile, anonymous=anonymous or None)
    return Access.for_s3(options, timeout=timeout, **limits)


def require_writable_file(file: Path | None, option: str) -> None:
    """Raise RecipeError or StorageError, before any work, when a command could not write its result to ``file``."""
    if file is None:
        return
    with os_errors(f"{option} is {printable(str(file))}"):
        file.exists()  # the name may be too long
    if file.is_dir():
        raise RecipeError(f"{option} is {file}, which is a folder", "name a file in it")
    require_writable_folder(file.parent, option)
    if file.exists() and not os.access(file, os.W_OK):
        raise StorageError(f"{option} is {file}, which this user may not write to", "name another file")


def require_writable_folder(folder: Path | None, option: str) -> None:
    """Raise RecipeError or StorageError, before any work, when a command could not make files in ``folder``."""
    with os_errors(f"{option} is {printable(str(folder))}"):
        exists = folder is None or folder.is_dir()
    if not exists:
        raise RecipeError(f"{option}: there is no folder {folder}", f"create it first: mkdir -p {folder}")
    if folder is not None and not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{option}: this user may not write to the folder {folder}", "name another folder")


def write_file(file: Path, text: str, option: str) -> None:
    """Write the result of a command. Raises StorageError."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}", f"name another file as {option}") from None


def executor_name(value: str) -> str:
    """An executor of this package, or one that an installed package adds. Raises typer.BadParameter."""
    if value not in tuple(ExecutorKind) and value not in added_executors():
        known = ", ".join(f"'{name}'" for name in (*ExecutorKind, *added_executors()))
        raise typer.BadParameter(f"'{value}' is not one of {known}.")
    return value
