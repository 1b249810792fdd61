"""The options that several commands share, and the checks of what they name before any work begins."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svc_dist.errors import RecipeError, StorageError
from svc_dist.linalg.precision import Precision
from svc_dist.plan.settings import Device
from svc_dist.run.executors import added_executors
from svc_dist.run.options import ExecutorKind

if TYPE_CHECKING:
    from svc_dist.storage.access import Access


class LogFormat(StrEnum):
    """The form of log lines on standard error."""

    TEXT = "text"
    JSON = "json"


PrecisionOption = Annotated[
    Precision | None,
    typer.Option("--precision", help="precision of spectral methods; default: that of the run in OUTPUT, else mixed"),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads-per-unit",
        min=1,
        metavar="N",
        help="threads that compute one unit; default: those of the run in OUTPUT, else 1",
    ),
]
DeviceOption = Annotated[
    Device,
    typer.Option("--device", help="auto: the device of the run in OUTPUT, else CUDA where available, else the CPU"),
]
ShardSizeOption = Annotated[
    str | None,
    typer.Option(
        "--max-shard-size", help="largest shard, such as 5GB or 4GiB; default: the recipe's, else 5GB", metavar="SIZE"
    ),
]
SlotsOption = Annotated[
    int | None,
    typer.Option(
        "--slots", min=1, metavar="N", help="units that run in parallel; default: by cores or devices, at least 2"
    ),
]
ScratchOption = Annotated[
    str | None,
    typer.Option(
        "--scratch",
        help="folder for ranges of remote inputs; default: the system's temporary folder",
        metavar="FOLDER",
    ),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        help="S3-compatible endpoint; the recipe takes precedence (also AWS_ENDPOINT_URL)",
        metavar="URL",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", help="AWS profile; the recipe takes precedence (also AWS_PROFILE)", metavar="NAME"),
]
AnonymousOption = Annotated[bool, typer.Option("--anonymous", help="read public data without credentials")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]


def _not_empty(location: str | None) -> str | None:
    if location is not None and not location.strip():
        raise typer.BadParameter("it is empty: name a folder or URL")
    return location


RecipeArgument = Annotated[Path, typer.Argument(help="recipe (YAML)", metavar="RECIPE")]
MergedArgument = Annotated[
    str, typer.Argument(help="folder or URL of a merged model", metavar="OUTPUT", callback=_not_empty)
]
RunArgument = Annotated[
    str, typer.Argument(help="folder or URL that a merge writes to", metavar="OUTPUT", callback=_not_empty)
]
TargetArgument = Annotated[
    str, typer.Argument(help="folder or URL for the merged model", metavar="OUTPUT", callback=_not_empty)
]


def access_of(
    endpoint_url: str | None,
    profile: str | None,
    anonymous: bool = False,
    parallel: int = 16,
    deadline: float = 300.0,
    timeout: float = 60.0,
) -> Access:
    """How the options say that storages are reached. Raises RecipeError for a malformed endpoint."""
    from svc_dist.storage.access import Access, ClientOptions, check_endpoint

    check_endpoint(endpoint_url, "--endpoint-url")
    if anonymous and profile is not None:
        raise typer.BadParameter("--anonymous uses no credentials: leave out --profile", param_hint="--anonymous")
    if not timeout > 0 or not deadline >= 0:
        raise typer.BadParameter("must be a number of seconds above 0", param_hint="--storage-timeout")
    options = ClientOptions(endpoint_url=endpoint_url, profile=profile, anonymous=anonymous or None)
    return Access.for_s3(options, parallel=parallel, timeout=timeout, deadline=deadline)


def require_writable_file(file: Path | None, option: str) -> None:
    """Raise RecipeError or StorageError, before any work, when a command could not write its result to ``file``."""
    if file is None:
        return
    if file.is_dir():
        raise RecipeError(f"{option} is {file}, which is a folder", "name a file in it")
    require_writable_folder(file.parent, option)
    if file.exists() and not os.access(file, os.W_OK):
        raise StorageError(f"{option} is {file}, which this user may not write to", "name another file")


def write_file(file: Path, text: str, option: str) -> None:
    """Write the result of a command. Raises StorageError."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}", f"name another file as {option}") from None


def require_writable_folder(folder: Path | None, option: str) -> None:
    """Raise RecipeError or StorageError, before any work, when a command could not make files in ``folder``."""
    if folder is None:
        return
    if not folder.is_dir():
        raise RecipeError(f"{option}: there is no folder {folder}", f"create it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{option}: this user may not write to the folder {folder}", "name another folder")


def executor_name(value: str) -> str:
    """An executor of this package, or one that an installed package adds. Raises typer.BadParameter."""
    if value not in tuple(ExecutorKind) and value not in added_executors():
        known = ", ".join(f"'{name}'" for name in (*ExecutorKind, *added_executors()))
        raise typer.BadParameter(f"'{value}' is not one of {known}.")
    return value
