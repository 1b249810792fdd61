"""A merge into ``hf://``: run in a staging folder as any other, then uploaded whole."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from svc_dist.errors import OtherMergeError, OutputError, RecipeError
from svc_dist.recipe.documents import Stage
from svc_dist.recipe.paths import PathValues
from svc_dist.run.hub.upload import SHORT, Uploading
from svc_dist.run.options import Options
from svc_dist.run.series.nightly import Checks, Load, Nightly, run_repeated
from svc_dist.run.session import MergeSummary, held
from svc_dist.run.stages.chain import summary_of_complete
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed
from svc_dist.run_folder.stages.places import placed
from svc_dist.storage.hub.branch import CODE, SCHEME, HubBranch, Place, parse_place

UPLOADED = "upload"  #: in place of an executor, of a merge that was complete and is uploaded now


@dataclass(frozen=True)
class Staging:
    """How a merge goes to a hub. ``folder``: where it is made first, a folder or URL; ``public``: whether a repository
    that everybody may read is meant."""

    folder: str | None = None
    public: bool = False


def run_to(
    load: Load, output: str, staging: Staging, options: Options, nightly: Nightly, checks: Checks
) -> MergeSummary:
    """Start or resume a merge into any output; see ``api.merge``. Raises SvcDistError."""
    if output.startswith(SCHEME):
        return _Upload(load, output, staging, options, nightly).run(checks)
    for option, given in (("--staging", staging.folder is not None), ("--public", staging.public)):
        if given:
            raise RecipeError(
                f"{option} is about an OUTPUT on a hub, but OUTPUT is {output}",
                "leave it out, or write OUTPUT like hf://owner/name",
                code="arguments-refused",
            )
    return run_repeated(load, output, options, nightly, checks)


class _Upload:
    """One start of a merge that goes to a hub."""

    def __init__(self, load: Load, output: str, staging: Staging, options: Options, nightly: Nightly) -> None:
        self.load, self.staging, self.options, self.nightly = load, staging, options, nightly
        self.place = place_of(output)
        self.folder = staging_of(staging.folder, output)
        for option, value in (("--latest", nightly.latest), ("--keep", nightly.keep is not None)):
            if value:
                raise OutputError(
                    f"{option} is about folders with a date, which a hub does not have",
                    "leave it out: git keeps what a branch held before",
                    code=CODE,
                )

    def run(self, checks: Checks) -> MergeSummary:
        began = time.monotonic()
        stages, location = placed(self.load, self.folder, self.options.restart)
        access = stages[-1].recipe.access
        branch, staged = HubBranch(self.place, access), Output(location, access)
        uploading = Uploading(branch, staged, self.staging.public, self.options.limits)
        uploading.require_allowed()
        if (done := self._done(stages, branch, began)) is not None:
            return done
        summary = run_repeated(self.load, self.folder, self.options, self.nightly, checks)
        staged = Output(summary.output, access)
        with held(staged) as lock:
            sent = Uploading(branch, staged, self.staging.public, self.options.limits).run(lock, began)
        executor = UPLOADED if sent and summary.executor == "none" else summary.executor
        return replace(
            summary, output=self.place.location, executor=executor, seconds=round(time.monotonic() - began, 3)
        )

    def _done(self, stages: tuple[Stage, ...], branch: HubBranch, began: float) -> MergeSummary | None:
        """The summary of a merge that the branch holds already, complete. Raises OtherMergeError for another one."""
        there = Output(self.place.location, stages[-1].recipe.access, reading=True)
        remote = branch.look(SHORT)
        if remote is None or remote.head is None or completed(there) is None:
            return None
        if self.options.restart:
            raise OutputError(
                f"{self.place.location} holds a complete merge, which --restart does not replace",
                f"name another branch, such as {SCHEME}{self.place.repository}@next",
                code=CODE,
            )
        try:
            return summary_of_complete(stages, there, self.options, began)
        except OtherMergeError as error:
            hint = f"name another branch, such as {SCHEME}{self.place.repository}@next"
            raise OtherMergeError(error.message, hint) from None


def place_of(output: str) -> Place:
    """Where on a hub an OUTPUT is. Raises OutputError, RecipeError."""
    if "{date}" in output:
        raise OutputError(
            f"{output}: a date is not supported in an OUTPUT on a hub",
            "name a branch by a variable, such as hf://owner/name@${BRANCH}",
            code=CODE,
        )
    return parse_place(PathValues().replaced(output, "OUTPUT"))


def staging_of(folder: str | None, output: str) -> str:
    """The staging folder. Raises OutputError where none is given."""
    if folder is None:
        raise OutputError(
            f"{output}: a hub takes whole files only, so the merge needs a folder where it is made first",
            "add --staging FOLDER, a folder or s3:// URL with room for the model; give the same one to resume",
            code=CODE,
        )
    return folder
