"""One start of a merge that is repeated: whether there is anything to do, the merge, the pointer, old outputs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from svc_dist.errors import OtherMergeError, RecipeError, VerificationError, require_count
from svc_dist.plan.hub_models import located
from svc_dist.recipe.documents import ResolvedDocument
from svc_dist.run.documents.chain import run_documents
from svc_dist.run.options import Options
from svc_dist.run.series.retention import remove_older
from svc_dist.run.session import MergeSummary, discard, held
from svc_dist.run_folder.documents.places import placed
from svc_dist.run_folder.documents.records import recorded_documents
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed, report_of
from svc_dist.run_folder.report import PublishedMerge
from svc_dist.run_folder.series.dates import Series, series_of
from svc_dist.run_folder.series.pointer import Pointer
from svc_dist.storage.access import Access

_log = logging.getLogger("svc_dist")
Load = Callable[..., tuple[ResolvedDocument, ...]]


@dataclass(frozen=True)
class Nightly:
    """How a merge is repeated. ``if_changed``: merge only when inputs, recipe or settings are not those of the last
    output; ``latest``: switch the pointer after the output was verified; ``keep``: how many complete outputs stay.

    Raises RecipeError when ``keep`` is no whole number of at least 1.
    """

    if_changed: bool = False
    latest: bool = False
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.keep is not None:
            require_count("keep", self.keep)

    def require_date(self) -> None:
        """Raise RecipeError for what only a series of outputs has."""
        for option, value in (("--latest", self.latest), ("--keep", self.keep is not None)):
            if value:
                raise RecipeError(
                    f"{option} takes an OUTPUT with {{date}}: it is about the outputs of several days",
                    "write OUTPUT like 's3://bucket/nightly/{date}'",
                    code="arguments-refused",
                )


def _nothing(*_: object) -> None:
    """What is not asked for."""


@dataclass(frozen=True)
class Checks:
    """What looks at a merge before and after it. ``problems``: what is wrong with the model at a location; ``before``:
    raises where a recipe cannot be followed; ``after``: scores the models that it made at a location."""

    problems: Callable[[str, Access], list[str]]
    before: Callable[[Sequence[ResolvedDocument]], None] = _nothing
    after: Callable[[Sequence[ResolvedDocument], str], None] = _nothing


def run_repeated(load: Load, output: str, options: Options, nightly: Nightly, checks: Checks) -> MergeSummary:
    """Start or resume a merge, of an OUTPUT with a date that of its day; see ``api.merge``.

    ``load``: the documents of the recipe, as for ``placed``.
    """
    start = _Start(load, output, options, nightly, checks)
    if start.series is None:
        nightly.require_date()
    checks.before(start.documents)
    summary = start.merged_if_changed() if nightly.if_changed else start.merged()
    checks.after(start.documents, summary.output)
    start.settle()
    return summary


class _Start:
    """One start. ``series``: the outputs of each day, where OUTPUT has a date; ``documents``: of its recipe."""

    def __init__(self, load: Load, output: str, options: Options, nightly: Nightly, checks: Checks) -> None:
        self._load, self._output, self._checks = load, output, checks
        self._options, self._nightly = options, nightly
        restart = options.restart and not nightly.if_changed
        self.documents, self._location = placed(load, output, restart)
        self.series: Series | None = series_of(output, self._access)[1]
        has_pointer = nightly.latest and self.series is not None
        self._pointer = Pointer(self.series) if has_pointer and self.series is not None else None

    @property
    def _access(self) -> Access:
        return self.documents[-1].recipe.access

    def merged(self) -> MergeSummary:
        return run_documents(self.documents, self._location, self._options)

    def merged_if_changed(self) -> MergeSummary:
        """Merge, unless the last output was made of the same. Resumes an unfinished merge of the same; another one,
        which could never be finished, is abandoned where each day has an output of its own."""
        resumed = replace(self._options, restart=False)
        while True:
            target = Output(self._location, self._access)
            last = None if self.series is None or target.journal.is_there() else next(self.series.complete(), None)
            if self.series is not None and last is not None:
                unchanged = self._compared(self.series.location(last), resumed)
                if unchanged is not None:
                    return unchanged
                if last == self.series.today:
                    return self._later(target)
                self._settle_before_a_merge()
            try:
                return run_documents(self.documents, self._location, resumed)
            except OtherMergeError as error:
                if self.series is None:
                    return self._replaced(error)
                _log.warning(f"{error.message}\nit cannot be resumed: it is removed, and a new merge starts")
            abandon(target)
            self.documents, self._location = placed(self._load, self._output)

    def _compared(self, last: str, options: Options) -> MergeSummary | None:
        """The summary of the last output, where a merge of now would give the same; else None."""
        # The commits of a hub's models are those of now, not those that the last output was made from.
        documents = tuple(replace(document, recipe=located(document.recipe)) for document in self.documents)
        try:
            summary = run_documents(documents, last, options)
        except OtherMergeError as error:
            _log.info(error.message)
            return None
        _log.info(f"nothing has changed since {last} was merged")
        return summary

    def _replaced(self, error: OtherMergeError) -> MergeSummary:
        """The merge in place of another one in the same output, where that was asked for."""
        if not self._options.restart:
            raise error
        _log.info(error.message)
        return self.merged()

    def _later(self, today: Output) -> MergeSummary:
        """What follows where the output of today is complete, and inputs have changed since."""
        published = completed(today)
        if self._options.restart or published is None:
            return self.merged()
        _log.warning(
            f"warning: {today.location} is complete, and OUTPUT has one merge a day: the change is merged tomorrow; "
            "--restart replaces today's merge"
        )
        return _summary_of(today, published)

    def _settle_before_a_merge(self) -> None:
        """What a start that was killed left to do, before the hours of a merge."""
        try:
            self.settle()
        except VerificationError as error:
            _log.warning(f"warning: {error.message}")

    def settle(self) -> None:
        """Switch the pointer to the newest complete output, once it is verified, and remove old outputs."""
        if self.series is None or not (self._nightly.latest or self._nightly.keep):
            return
        date = next(self.series.complete(), None)
        if self._pointer is not None and date is not None and not self._pointer.names(date):
            location = self.series.output(date).location
            if problems := self._checks.problems(location, self._access):
                raise VerificationError(
                    f"{location} is complete but not right, so that {self.series.latest} stays as it is: {problems[0]}",
                    f"see svc-dist verify {location}",
                )
            self._pointer.switch(date)
            _log.info(f"{self.series.latest} names {location} now")
        if self._nightly.keep is not None:
            remove_older(self.series, self._nightly.keep, self._pointer)


def _summary_of(output: Output, published: PublishedMerge) -> MergeSummary:
    """The summary of a complete merge that this start leaves as it is."""
    report = report_of(output, published)
    return MergeSummary(
        output=output.location,
        fingerprint=published.fingerprint,
        tensors=len(report.tensors),
        shards=len(report.shards),
        units=len(report.ranges),
        units_resumed=len(report.ranges),
        retries=0,
        bytes_in=report.bytes_in,
        bytes_out=report.bytes_out,
        seconds=0.0,
        executor="none",
        precision=published.settings.precision,
        warnings=(),
    )


def abandon(output: Output) -> None:
    """Remove an unfinished merge, of several documents with the models that are complete. Raises LockedError."""
    with held(output):
        for record in recorded_documents(output) or ():
            if record.result and record.name is not None:
                discard(record.output(output))
        discard(output)
    if output.storage.path is not None:
        with contextlib.suppress(OSError):  # not empty: others' files stay
            output.storage.path.rmdir()
