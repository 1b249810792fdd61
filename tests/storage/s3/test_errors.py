"""Errors of S3 and of botocore: transient or permanent, with the remedy, and without secrets."""

from __future__ import annotations

import pytest
from botocore import exceptions

from svc_dist.errors import StorageError, TransientStorageError
from svc_dist.storage.s3.errors import error_code, s3_error

WHAT = "cannot read s3://bucket/model"


def refusal(code: str, status: int, message: str = "because") -> exceptions.ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(answer, "GetObject")


@pytest.mark.parametrize(
    ("code", "status"),
    [("InternalError", 500), ("ServiceUnavailable", 503), ("SlowDown", 503), ("TooManyRequests", 429),
     ("BadDigest", 400), ("RequestTimeout", 400), ("Unheard", 502)],
)  # fmt: skip
def test_what_may_pass_is_transient(code: str, status: int) -> None:
    error = s3_error(refusal(code, status), WHAT)
    assert isinstance(error, TransientStorageError)
    assert error.message == f"{WHAT}: {code}: because"


@pytest.mark.parametrize(
    ("code", "status", "hint"),
    [
        ("NoSuchBucket", 404, "check the bucket's name"),
        ("NoSuchKey", 404, "put it back"),
        ("InvalidObjectState", 403, "archived (Glacier)"),
        ("ExpiredTokenException", 403, "renew the credentials"),
        ("ExpiredToken", 400, "renew the credentials"),
        ("RequestTimeTooSkewed", 403, "clock"),
        ("PermanentRedirect", 301, "AWS_DEFAULT_REGION"),
        ("AccessDenied", 403, "check the credentials"),
        ("SignatureDoesNotMatch", 403, "check the credentials"),
        ("NotImplemented", 501, None),
    ],
)
def test_what_does_not_pass_says_what_to_do(code: str, status: int, hint: str | None) -> None:
    error = s3_error(refusal(code, status), WHAT)
    assert isinstance(error, StorageError)
    assert not isinstance(error, TransientStorageError)
    assert error.hint is None if hint is None else hint in str(error.hint)


@pytest.mark.parametrize(
    ("error", "transient", "hint"),
    [
        (exceptions.EndpointConnectionError(endpoint_url="http://x"), True, "check the endpoint and the network"),
        (exceptions.ReadTimeoutError(endpoint_url="http://x"), True, None),
        (exceptions.ConnectionClosedError(endpoint_url="http://x"), True, None),
        (exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), True, None),
        (TimeoutError("slow"), True, None),
        (exceptions.SSLError(endpoint_url="https://x", error="self-signed"), False, "certificates"),
        (exceptions.UnauthorizedSSOTokenError(), False, "aws sso login --profile work"),
        (exceptions.SSOTokenLoadError(error_msg="gone"), False, "aws sso login --profile work"),
        (exceptions.TokenRetrievalError(provider="sso", error_msg="over"), False, "aws sso login --profile work"),
        (exceptions.HTTPClientError(error=OSError(24, "Too many open files")), False, "ulimit -n"),
        (exceptions.NoCredentialsError(), False, "for a public bucket set anonymous"),
        (exceptions.ProfileNotFound(profile="me"), False, "AWS_PROFILE"),
        (exceptions.ParamValidationError(report="Invalid bucket name"), False, "bucket's name"),
        (ValueError("Invalid endpoint: localhost:9000"), False, "https://host:9000"),
    ],
)
def test_errors_of_the_client_are_sorted_too(
    monkeypatch: pytest.MonkeyPatch, error: Exception, transient: bool, hint: str | None
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    ours = s3_error(error, WHAT)
    assert isinstance(ours, StorageError)
    assert isinstance(ours, TransientStorageError) is transient
    assert ours.message.startswith(f"{WHAT}: ")
    assert ours.hint is None if hint is None else hint in str(ours.hint)


def test_an_error_of_ours_stays_as_it_is() -> None:
    ours = StorageError("no")
    assert s3_error(ours, WHAT) is ours


def test_a_signed_url_in_a_message_shows_no_signature() -> None:
    url = "https://b.s3.amazonaws.com/k?X-Amz-Signature=0123456789abcdef0123456789abcdef"
    assert "0123456789abcdef" not in s3_error(refusal("TemporaryRedirect", 307, f"go to {url}"), WHAT).message


def test_the_code_is_that_of_the_answer_and_empty_without_one() -> None:
    assert error_code(refusal("NoSuchKey", 404)) == "NoSuchKey"
    assert error_code(TimeoutError()) == ""
