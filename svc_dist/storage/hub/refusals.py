"""What a hub answers when it refuses something: which of a chain of errors says it, and what to do."""

from __future__ import annotations

from typing import Any

from svc_dist.errors import StorageError, SvcDistError, TransientStorageError, printable
from svc_dist.storage.base import Storage
from svc_dist.storage.secrets import redact

HINTS = {
    401: "set HF_TOKEN, or use `hf auth login`, with a token that may write",
    403: "the token may not write there: give it the right to write to this repository, or to create one",
    429: "the hub limits uploads and commits: run the same command again later to resume",
}
_LONGEST = 500  # characters of what a hub says is wrong with a file


class MovedError(StorageError):
    """A branch has moved on from the parent of a commit: another program committed to it meanwhile."""


def translated(storage: Storage, error: Exception, what: str) -> Exception:
    """Our error for one of the hub's client while doing ``what``. ``storage``: of the repository."""
    if isinstance(error, SvcDistError):
        return error
    decisive = _decisive(error)
    status = _status(decisive)
    if status == 412:
        return MovedError(
            f"{storage.location}: another program commits to this branch again and again",
            "nothing is lost: run the same command again, or name a branch of its own: hf://owner/name@branch",
        )
    failed = storage.translate(decisive, what)
    if not isinstance(failed, StorageError):
        return failed
    if status == 400 and str(error).strip():  # the client's error has what the answer's body says is wrong
        reason = printable(redact(" ".join(str(error).split())))
        failed = type(failed)(f"{failed.message}: {reason[:_LONGEST]}", failed.hint)
    if status in HINTS or isinstance(failed, TransientStorageError):
        failed.hint = HINTS.get(status, "check the network and HF_ENDPOINT")
    return failed


def _decisive(error: Exception) -> Exception:
    """Of an error and its causes the one that has the hub's answer, else the one that says why there is none."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    answered = [one for one in chain if _status(one) is not None]
    unanswered = [one for one in chain if isinstance(one, OSError) or _is_of_transport(one)]
    found = next(iter((*answered, *unanswered)), error)
    return found if isinstance(found, Exception) else error


def _is_of_transport(error: BaseException) -> bool:
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)  # of whichever httpx it is built on


def _status(error: BaseException) -> Any:
    return getattr(getattr(error, "response", None), "status_code", None)
