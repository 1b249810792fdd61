"""The outputs of a merge that is repeated: OUTPUT has ``{date}``, and each date is an output of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from svc_dist.recipe.paths import PathValues
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed
from svc_dist.storage.access import Access
from svc_dist.storage.open import open_storage

_DATE = "{date}"
_MARK = "\0"
#: In place of the date, the name of the pointer to the newest output.
LATEST = "latest"


@dataclass(frozen=True)
class Series:
    """The outputs of one OUTPUT with a date. ``parts``: of its location, between slashes; ``today``: the date now."""

    parts: tuple[str, ...]
    today: str
    access: Access

    def location(self, date: str) -> str:
        """The output of a date."""
        return "/".join(self.parts).replace(_MARK, date)

    @property
    def latest(self) -> str:
        """The location of the pointer: OUTPUT with ``latest`` in place of the date."""
        return self.location(LATEST)

    def output(self, date: str) -> Output:
        return Output(self.location(date), self.access)

    @property
    def depth(self) -> int:
        """How many parts at the end of a location belong to one date alone."""
        return len(self.parts) - self._first

    @property
    def _first(self) -> int:
        return next(number for number, part in enumerate(self.parts) if _MARK in part)

    def dates(self) -> list[str]:
        """The dates up to today of which there is a folder, the newest first."""
        first = self._first
        pattern = re.compile(re.escape(self.parts[first]).replace(re.escape(_MARK), r"(\d{4}-\d\d-\d\d)"))
        parent = "/".join(self.parts[:first]) or ("/" if first else ".")
        matches = (pattern.fullmatch(name) for name in open_storage(parent, self.access).folders())
        return sorted((match[1] for match in matches if match is not None and match[1] <= self.today), reverse=True)

    def complete(self) -> Iterator[str]:
        """The dates whose merge is complete, the newest first."""
        return (date for date in self.dates() if is_complete(self.output(date)))

    def unfinished(self) -> str | None:
        """The newest date whose merge was begun and is not complete."""
        return next((date for date in self.dates() if self.output(date).journal.is_there()), None)


def is_complete(output: Output) -> bool:
    """Whether an output holds a whole merge, of all documents of its recipe."""
    return completed(output) is not None and not output.journal.is_there()


def series_of(output: str, access: Access) -> tuple[str, Series | None]:
    """An OUTPUT with the values of ``${NAME}`` and today's date; and its series, where it has a date."""
    values = PathValues()
    marked = values.replaced(output.replace(_DATE, _MARK), "OUTPUT")
    if _MARK not in marked:
        return marked, None
    series = Series(tuple(marked.rstrip("/").split("/")), values.replaced(_DATE, "OUTPUT"), access)
    return series.location(series.today), series
