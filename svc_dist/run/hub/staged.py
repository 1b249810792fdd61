"""A merge into ``hf://``: run in a staging folder as any other, then uploaded whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from svc_dist.errors import OtherMergeError, OutputError, RecipeError, VerificationError, printable
from svc_dist.recipe.documents import ResolvedDocument
from svc_dist.recipe.paths import PathValues
from svc_dist.run.documents.chain import summary_of_complete
from svc_dist.run.hub.allowed import require_allowed, require_free
from svc_dist.run.hub.upload import UPLOAD_FILE, Uploading
from svc_dist.run.options import Options
from svc_dist.run.series.nightly import Checks, Load, Nightly, run_repeated
from svc_dist.run.session import MergeSummary, held
from svc_dist.run.signals.stopping import recorded_stop
from svc_dist.run_folder.documents.places import placed
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import completed
from svc_dist.run_folder.report import PublishedMerge
from svc_dist.storage.hub.branch import CODE, SCHEME, HubBranch, Place, Remote, parse_place
from svc_dist.storage.secrets import redact

UPLOADED = "upload"  #: in place of an executor, of a merge that was complete and is uploaded now


@dataclass(frozen=True)
class Staging:
    """How a merge goes to a hub. ``folder``: where it is made first, a folder or URL; ``public``: whether a repository
    that everybody may read is meant."""

    folder: str | None = None
    public: bool = False


NO_STAGING = Staging()


def run_to(
    load: Load, output: str, staging: Staging, options: Options, nightly: Nightly, checks: Checks
) -> MergeSummary:
    """Start or resume a merge into any output; see ``api.merge``. Raises SvcDistError."""
    if output.startswith(SCHEME):
        return _Upload(load, output, staging, options, nightly).run(checks)
    require_hub([output], staging)
    return run_repeated(load, output, options, nightly, checks)


def require_hub(outputs: Sequence[str], staging: Staging) -> None:
    """Raise RecipeError for options about a hub where no OUTPUT is on one."""
    for option, given in (("--staging", staging.folder is not None), ("--public", staging.public)):
        if given and not any(output.startswith(SCHEME) for output in outputs):
            raise RecipeError(
                f"{option} is about an OUTPUT on a hub, but OUTPUT is {redact(outputs[0])}",
                "leave it out, or write OUTPUT like hf://owner/name",
                code="arguments-refused",
            )


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
        with recorded_stop() as asked:
            return self._run(checks, asked)

    def _run(self, checks: Checks, asked: threading.Event) -> MergeSummary:
        """``asked``: set once the merge was asked to stop, also where it had ended by then."""
        began = time.monotonic()
        documents, location = placed(self.load, self.folder, self.options.restart)
        access = documents[-1].recipe.access
        branch, staged = HubBranch(self.place, access), Output(location, access)
        remote = require_allowed(branch, self.staging.public)
        there = Output(self.place.location, access, reading=True)
        published = None if remote is None or remote.head is None else completed(there)
        if remote is not None and published is not None:
            if self._is_done(branch, remote, published, staged):
                done = self._summary(documents, there, began)
                if done is not None:
                    return done
        elif self.options.restart or completed(staged) is None:
            require_free(branch, branch.create(remote, self.staging.public), documents)  # before hours of merging
        summary = run_repeated(self.load, self.folder, self.options, self.nightly, checks)
        staged = Output(summary.output, access)
        with held(staged) as lock:
            sent = Uploading(branch, staged, self.staging.public, self.options, asked).run(lock, began)
        executor = UPLOADED if sent and summary.executor == "none" else summary.executor
        return replace(
            summary, output=self.place.location, executor=executor, seconds=round(time.monotonic() - began, 3)
        )

    def _is_done(self, branch: HubBranch, remote: Remote, published: PublishedMerge, staged: Output) -> bool:
        """Whether nothing is left to do for a complete merge on the branch: every file is there, and was compared.

        Raises OutputError, and VerificationError where a file is missing that the staging folder does not have.
        """
        if self.options.restart:
            raise OutputError(
                f"{self.place.location} holds a complete merge, which --restart does not replace",
                f"name another branch, such as {SCHEME}{self.place.repository}@next",
                code=CODE,
            )
        is_staged = completed(staged) is not None
        if remote.head is None or (is_staged and staged.storage.stat(UPLOAD_FILE) is not None):
            return False
        files = branch.files(remote.head)
        lost = next((name for name in published.files if name not in files), None)
        if lost is not None and not is_staged:  # another merge would have another report
            raise VerificationError(
                f"{self.place.location} holds a complete merge, but no {printable(lost)}, and the merge is not in "
                f"{staged.location}",
                f"put the file back, or name another branch, such as {SCHEME}{self.place.repository}@next",
            )
        return lost is None

    def _summary(self, documents: tuple[ResolvedDocument, ...], there: Output, began: float) -> MergeSummary | None:
        """The summary of a merge that the branch holds already, complete. Raises OtherMergeError for another one."""
        try:
            return summary_of_complete(documents, there, self.options, began)
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
