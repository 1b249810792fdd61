"""The commands that take a merged model, as functions: its status, checks, comparison, and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from svc_dist.errors import RecipeError
from svc_dist.storage.access import DEFAULT_ACCESS, Access

if TYPE_CHECKING:
    from svc_dist.checks.diff import Difference
    from svc_dist.checks.status import Status
    from svc_dist.checks.verify import Verification
    from svc_dist.report.readable import Report


def status(output: str | Path, *, access: Access = DEFAULT_ACCESS) -> Status:
    """The state and progress of a merge, running or not, from any process that reaches its output.

    ``state`` is running, stopped, failed or complete. Raises OutputError when ``output`` holds no merge, StorageError.
    """
    from svc_dist.checks.status import read_status

    return read_status(str(output), access)


def verify(output: str | Path, *, deep: bool = False, access: Access = DEFAULT_ACCESS) -> Verification:
    """Check that a merged model is complete and well-formed; with ``deep`` also that it is unchanged and finite.

    ``deep`` reads every byte. ``ok`` is whether all is well; ``problems`` says what is wrong, ``skipped`` what could
    not be checked here. Damage raises nothing; StorageError when the output cannot be reached.
    """
    from svc_dist.checks.verify import verify as check

    return check(str(output), deep, access)


def diff(a: str | Path, b: str | Path, *, scratch: str | None = None, access: Access = DEFAULT_ACCESS) -> Difference:
    """Compare two models tensor by tensor, out of core, whatever their shards and dtypes.

    ``same`` is whether every tensor has the same values; ``tensors`` has the largest difference, the relative norm and
    the cosine of each. Raises DamagedInputError, StorageError.
    """
    from svc_dist.checks.diff import diff as compare

    return compare(str(a), str(b), access, scratch)


def read_report(output: str | Path, *, access: Access = DEFAULT_ACCESS) -> Report:
    """The report of a finished merge: how the model was made, and what happened to each matrix.

    ``verdict`` says in words what the sum over-counts and what calibration did; a notebook shows it with a table.
    Of a merge with several results, ``output`` is the folder of one. Raises OutputError, DamagedInputError,
    StorageError.
    """
    from svc_dist.report.readable import Report
    from svc_dist.run_folder.report import read_report as read
    from svc_dist.run_folder.series.pointer import resolved

    return Report.of(read(resolved(str(output).rstrip("/"), access), access))


def write_report(
    output: str | Path,
    page: str | Path | None = None,
    *,
    compare: str | Path | None = None,
    access: Access = DEFAULT_ACCESS,
) -> tuple[str, ...]:
    """Write the page of a finished merge, and return where it is.

    ``page``: a local file; None for ``merge_report.html`` beside the model, on any storage, for each of several
    results. ``compare``: another merged model, whose figures the page shows beside these. A page of another merge, and
    any other file, stays as it is: OutputError.
    """
    from svc_dist.report.page import Other, render
    from svc_dist.report.page_file import PageFile
    from svc_dist.run_folder.published import result_folders
    from svc_dist.run_folder.report import read_report as read
    from svc_dist.run_folder.series.pointer import resolved

    model = resolved(str(output).rstrip("/"), access)
    folders = result_folders(model, access)
    if folders and page is not None:
        raise RecipeError(
            f"{model} has {len(folders)} results, but a page shows one",
            f"name one of them, such as {model}/{folders[0]}, or name no file: each gets its page beside it",
        )
    other = None
    if compare is not None:
        beside = resolved(str(compare).rstrip("/"), access)
        if several := result_folders(beside, access):
            raise RecipeError(
                f"{beside} has {len(several)} results, but a page compares with one",
                f"name one of them, such as {beside}/{several[0]}",
            )
        other = Other(beside.rpartition("/")[2], read(beside, access))
    written = []
    for one in [f"{model}/{folder}" for folder in folders] or [model]:
        report, file = read(one, access), PageFile(one, None if page is None else Path(page), access)
        file.require_own(report)
        file.write(render(report, f"Merge {one.rpartition('/')[2]}", other))
        written.append(file.location)
    return tuple(written)
