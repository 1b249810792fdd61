"""Where the runs of a recipe go and what its paths stand for: decided when a run is created, and kept until it ends."""

from __future__ import annotations

import re
from collections.abc import Callable

from svc_dist.recipe.documents import Stage
from svc_dist.recipe.paths import PathValues
from svc_dist.run_folder.output import Output
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage

_DATE = "{date}"


def placed(load: Callable[..., tuple[Stage, ...]], output: str, restart: bool = False) -> tuple[tuple[Stage, ...], str]:
    """The stages of a recipe and the location of their output, as the run there was created with them.

    ``load``: the stages, with ``recorded`` values of ``${NAME}`` and ``{date}`` if given. ``restart``: those of now.
    """
    stages = load()
    access = stages[-1].recipe.access
    location = dated(output, access, restart)
    used = stages[-1].recipe.path_values
    if used and not restart:
        recorded = Output(location, access).journal.paths()
        if any(recorded.get(name, value) != value for name, value in used.items()):
            stages = load(recorded=recorded)
    return stages, location


def dated(output: str, access: Access, restart: bool = False) -> str:
    """An OUTPUT with the values of ``${NAME}`` and ``{date}``.

    The date is that of the newest unfinished merge under such a name, so that the next start resumes it; else today.
    """
    values = PathValues()
    parts = values.replaced(output.replace(_DATE, "\0"), "OUTPUT").split("/")
    first = next((number for number, part in enumerate(parts) if "\0" in part), None)
    if first is None:
        return "/".join(parts)
    today = values.replaced(_DATE, "OUTPUT")
    if not restart:
        pattern = re.compile(re.escape(parts[first]).replace(re.escape("\0"), r"(\d{4}-\d\d-\d\d)"))
        parent = "/".join(parts[:first]) or ("/" if first else ".")
        for name in sorted(open_storage(parent, access).folders(), reverse=True):
            match = pattern.fullmatch(name)
            if match is not None and match[1] <= today:
                location = "/".join(parts).replace("\0", match[1])
                if Output(location, access).journal.is_there():
                    return location
    return "/".join(parts).replace("\0", today)
