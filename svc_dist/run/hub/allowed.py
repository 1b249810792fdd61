"""What a merge into ``hf://`` needs before it starts: a token that may write, and a branch without other files."""

from __future__ import annotations

from collections.abc import Sequence

from svc_dist.checkpoint.weight_files import completes, is_last
from svc_dist.errors import OutputError, printable
from svc_dist.recipe.documents import ResolvedDocument
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import CARD_FILE, OUTPUTS_FILE, RECIPE_FILE, completed
from svc_dist.run_folder.report import REPORT_FILE
from svc_dist.storage.hub.branch import CODE, SCHEME, HubBranch, Place, Remote

SHORT = 10.0  # seconds of retries for the first request: before hours of merging, a wrong address has to show


def require_allowed(branch: HubBranch, public: bool) -> Remote | None:
    """Look at the repository. Raises OutputError where it is public and that was not asked for."""
    remote = branch.look(SHORT)
    if remote is not None and not remote.private and not public:
        raise OutputError(
            f"{branch.place.location} is public: everybody could read the merge",
            "add --public if that is meant, or name a private repository",
            code=CODE,
        )
    return remote


def require_free(branch: HubBranch, commit: str, documents: Sequence[ResolvedDocument]) -> None:
    """Refuse, of the files of a commit, what the upload would refuse after the merge. Raises OutputError."""
    results = documents[0].recipe.results if len(documents) == 1 else ()  # the folders that are known
    ours = (CARD_FILE, RECIPE_FILE, REPORT_FILE)
    reserved = {OUTPUTS_FILE, *(f"{one.path}/{name}" if one.path else name for one in results for name in ours)}
    for name in sorted(branch.files(commit)):
        if name in reserved or completes(name) or is_last(name):
            raise foreign(branch.place, name)


def foreign(place: Place, name: str) -> OutputError:
    return OutputError(
        f"{place.location} already holds {printable(name)}, which is not of this merge",
        f"name a branch of its own, such as {SCHEME}{place.repository}@merged, or remove the file",
        code=CODE,
    )


def look_ahead(place: Place, staged: Output, public: bool, documents: Sequence[ResolvedDocument]) -> str:
    """What is there now, in words. Changes nothing, and raises the error that a merge would meet before it starts."""
    branch = HubBranch(place, staged.access)
    remote = require_allowed(branch, public)
    if remote is None:
        branch.require_creatable()
        return f"a merge makes this repository, {'public' if public else 'private'}"
    kind = "private" if remote.private else "public"
    branch.require_writable(remote)
    if remote.head is None:
        return f"the token may write to this {kind} repository, where a merge makes the branch {place.branch}"
    if completed(Output(place.location, staged.access, reading=True)) is not None:
        return f"this {kind} repository holds a complete merge, which is not replaced"
    if completed(staged) is None:
        require_free(branch, remote.head, documents)
    return f"the token may write to this {kind} repository"
