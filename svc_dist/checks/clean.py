"""Remove an abandoned run: only its partial files, its uploads and its run folder."""

from __future__ import annotations

from svc_dist.errors import OutputError
from svc_dist.run_folder.leftovers import Remains, remains, remove_run
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed


def clean(output: Output) -> Remains:
    """Remove what an abandoned run left. Raises OutputError where there is no run, LockedError while it is alive."""
    _require_run(output)
    with output.lock():
        left = remains(output)
        for name in left.files:
            output.storage.delete(name)
        remove_run(output)
    return left


def look(output: Output) -> Remains:
    """What ``clean`` would remove. Raises OutputError where there is no run."""
    _require_run(output)
    return remains(output)


def _require_run(output: Output) -> None:
    if completed(output) is not None:
        raise OutputError(
            f"{output.location} holds a complete merge: there is nothing to clean",
            "remove the folder yourself if you do not need the model",
        )
    if output.journal.is_empty():
        raise OutputError(f"{output.location} holds no merge", "check the path; there is nothing to clean")
