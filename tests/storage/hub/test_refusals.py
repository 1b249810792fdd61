"""What a refusal of a hub says (svc_dist.storage.hub.refusals)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from svc_dist.errors import StorageError, TransientStorageError
from svc_dist.storage.hub.refusals import MovedError, translated
from svc_dist.storage.hub.repository import HubStorage

STORAGE = HubStorage("hf://acme/m")


def test_a_lost_connection_is_transient_also_as_the_cause_of_another_error() -> None:
    class TransportError(Exception):
        """The name of httpx's base class."""

    error, cause = RuntimeError("Error while uploading"), TransportError("refused")
    cause.__cause__ = Exception("of a lower layer")
    error.__cause__ = cause
    assert type(translated(STORAGE, error, "cannot upload")) is TransientStorageError
    error.__cause__ = ConnectionResetError()
    assert type(translated(STORAGE, error, "cannot upload")) is TransientStorageError


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (401, StorageError, "a token that may write"),
        (403, StorageError, "may not write"),
        (412, MovedError, "a branch of its own"),
        (429, TransientStorageError, "limits uploads"),
        (503, TransientStorageError, "check the network"),
    ],
)
def test_a_refusal_says_what_to_do_also_as_the_cause_of_another_error(
    status: int, kind: type[Exception], hint: str
) -> None:
    cause = OSError("no")
    cause.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    error = RuntimeError("Error while uploading")
    error.__cause__ = cause
    failed = translated(STORAGE, error, "cannot upload")
    assert type(failed) is kind
    assert hint in str(failed)


def test_what_is_wrong_with_a_file_is_said_without_secrets() -> None:
    cause = OSError("400 Client Error")
    cause.response = SimpleNamespace(status_code=400)  # type: ignore[attr-defined]
    error = ValueError("Invalid metadata in README.md.\n- base_model is wrong, see https://me:secret@host/a?token=hf_x")
    error.__cause__ = cause
    failed = translated(STORAGE, error, "cannot commit to hf://acme/m")
    assert "answered 400: Invalid metadata in README.md. - base_model is wrong" in str(failed)
    assert "secret" not in str(failed)
