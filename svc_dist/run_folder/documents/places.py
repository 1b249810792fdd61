"""Where the runs of a recipe go and what its paths stand for: decided when a run is created, and kept until it ends."""

from __future__ import annotations

from collections.abc import Callable

from svc_dist.recipe.documents import ResolvedDocument
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.series.dates import series_of
from svc_dist.storage.access import Access


def placed(
    load: Callable[..., tuple[ResolvedDocument, ...]], output: str, restart: bool = False
) -> tuple[tuple[ResolvedDocument, ...], str]:
    """The documents of a recipe and the location of their output, as the run there was created with them.

    ``load``: the documents, with ``recorded`` values of ``${NAME}`` and ``{date}`` if given. ``restart``: those of now.
    """
    documents = load()
    access = documents[-1].recipe.access
    location = dated(output, access, restart)
    used = documents[-1].recipe.path_values
    if used and not restart:
        recorded = Output(location, access).journal.paths()
        if any(recorded.get(name, value) != value for name, value in used.items()):
            documents = load(recorded=recorded)
    return documents, location


def dated(output: str, access: Access, restart: bool = False) -> str:
    """An OUTPUT with the values of ``${NAME}`` and ``{date}``.

    The date is that of the newest unfinished merge under such a name, so that the next start resumes it; else today.
    """
    location, series = series_of(output, access)
    unfinished = None if series is None or restart else series.unfinished()
    return location if series is None or unfinished is None else series.location(unfinished)
