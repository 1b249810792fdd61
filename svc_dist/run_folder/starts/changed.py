"""What changed since an output was merged, or begun: the errors that name it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from svc_dist.errors import OtherMergeError, SvcDistError
from svc_dist.plan.fingerprint import PlannedFrom, differences
from svc_dist.plan.model import Plan
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import report_folder, report_of
from svc_dist.run_folder.report import REPORT_FILE, PublishedMerge

_log = logging.getLogger("svc_dist")


def other_run(output: Output, changed: str) -> OtherMergeError:
    """The error for an output that holds an unfinished run of something else. ``changed``: in lines."""
    return OtherMergeError(
        f"{output.location} holds an unfinished merge of something else; since then this changed:\n{changed}",
        "undo the change to resume, start over with --restart, or name another OUTPUT",
    )


def other_merge(output: Output, published: PublishedMerge, plan: Plan) -> OtherMergeError:
    """The error for an output that holds a finished merge of something else than this plan."""
    return OtherMergeError(
        f"{output.location} holds a complete merge of something else; since then this changed:\n"
        + changes(report_of(output, published), plan),
        "name another OUTPUT, or replace it with --restart; "
        f"{report_folder(output, published)}/{REPORT_FILE} records what it was made from",
    )


@contextlib.contextmanager
def planned_again(output: Output) -> Iterator[None]:
    """Plan the merge that an output is complete with. Where that fails, say that the output stays as it is."""
    try:
        yield
    except SvcDistError:
        _log.warning(f"{output.location} holds a complete merge, which stays as it is; its inputs have changed since")
        raise


def changes(old: PlannedFrom, new: PlannedFrom) -> str:
    """The differences of what two merges are made of, in lines."""
    return "\n".join(f"  {line}" for line in differences(old, new))
