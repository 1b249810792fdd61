"""Errors of S3 and of botocore as errors of ours: transient or permanent, with a remedy."""

from __future__ import annotations

import os

from svc_dist.errors import StorageError, SvcDistError, TransientStorageError
from svc_dist.storage.base import storage_error
from svc_dist.storage.secrets import redact

NOT_FOUND = ("NoSuchKey", "404", "NotFound")
NO_UPLOAD = ("NoSuchUpload", "404", "NotFound")
CONDITION_FAILED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
#: The answer to a refused HEAD has no body, so that it states no reason.
WITHOUT_BODY = ("400", "401", "403")
#: Refusals that are transient whatever their HTTP status: truncated or garbled requests, or throttling.
_TRANSIENT = {
    "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException",
    "RequestThrottled", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
}  # fmt: skip
#: Refusals that ask for fewer requests.
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestThrottled", "503", "429"}
_REGION = "the bucket lies in another region: set AWS_DEFAULT_REGION, or `region` under `storage` in the recipe"
_ENDPOINT = "AWS_ENDPOINT_URL, --endpoint-url, or `endpoint_url` in the recipe"
_NO_STORE = f"check that an S3 storage answers at the endpoint, not a console or a proxy ({_ENDPOINT})"
_HINTS = {
    "NoSuchBucket": "check the bucket's name and the endpoint",
    "InvalidObjectState": "the object is archived (Glacier): restore it first (aws s3api restore-object), or copy it "
    "to another storage class",
    "ExpiredTokenException": "renew the credentials, then run the same command again to resume",
    "RequestExpired": "renew the credentials, or set this machine's clock",
    "InvalidAccessKeyId": "the access key is unknown there: check AWS_ACCESS_KEY_ID, the profile and the endpoint",
    "NoSuchKey": "another program removed it: put it back, then run the same command again to resume",
    "ExpiredToken": "renew the credentials, then run the same command again to resume",
    "InvalidToken": "renew the credentials, then run the same command again to resume",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "check the credentials: AWS_SECRET_ACCESS_KEY is not the secret of the access key",
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION
    ),
}
_CREDENTIALS = "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, the machine's role) and what they allow"
_RIGHTS = f"{_CREDENTIALS}; docs/storage.md lists the rights that a merge needs"


def error_code(error: Exception) -> str:
    """The code of S3's refusal, such as ``NoSuchKey``; "" where S3 did not answer."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def is_foreign(error: Exception) -> bool:
    """Whether an answer is none of S3: a page of a console, a proxy or another program, or a refused HEAD."""
    return not error_code(error).isalpha()


def is_throttled(error: Exception) -> bool:
    """Whether S3 refused a request because there are too many of them."""
    return error_code(error) in _THROTTLED


def s3_error(error: Exception, what: str) -> SvcDistError:
    """Our error for whatever the client raised while doing ``what``."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    network = exceptions.ConnectionError | exceptions.HTTPClientError | exceptions.ResponseStreamingError
    garbled = exceptions.IncompleteReadError | ResponseParserError | HTTPError
    if isinstance(error, SvcDistError):
        return error
    if isinstance(error, exceptions.ClientError):
        return _refusal(error, what)
    text = f"{what}: {redact(f'{type(error).__name__}: {error}'.rstrip(': '))}"
    if "Too many open files" in text:
        return StorageError(text, "raise the limit of open files (ulimit -n 65536), or lower --slots")
    if isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError | exceptions.NoAuthTokenError):
        return StorageError(
            text, f"sign in again: {_login('aws sso login')}; then run the same command again to resume"
        )
    if type(error).__name__.startswith("Login") and isinstance(error, exceptions.BotoCoreError):
        return StorageError(text, f"sign in again: {_login('aws login')}; then run the same command again to resume")
    if isinstance(error, exceptions.EndpointConnectionError):
        return TransientStorageError(text, f"check the endpoint and the network ({_ENDPOINT})")
    if isinstance(error, exceptions.SSLError):
        return StorageError(text, "check the endpoint and the certificates of this machine")
    if isinstance(error, RecursionError):  # the client follows redirects, and asks about each
        return StorageError(f"{what}: PermanentRedirect: the store redirects again and again", _REGION)
    if isinstance(error, ResponseParserError):
        return TransientStorageError(text, _NO_STORE)
    if isinstance(error, network | garbled | TimeoutError | ConnectionError):
        return TransientStorageError(text)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return StorageError(text, f"{_CREDENTIALS}; for a public bucket set anonymous")
    if isinstance(error, exceptions.ProfileNotFound | exceptions.CredentialRetrievalError):
        return StorageError(text, _CREDENTIALS)
    if isinstance(error, ValueError) and "endpoint" in text:  # of AWS_ENDPOINT_URL or the profile
        return StorageError(text, "write it like https://host:9000")
    if isinstance(error, exceptions.ParamValidationError):
        return StorageError(text, "check the bucket's name and the path")
    if isinstance(error, exceptions.BotoCoreError):
        return StorageError(text)
    return storage_error(error, what)


def _login(command: str) -> str:
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    return f"{command} --profile {profile or 'NAME'}"


def _refusal(error: Exception, what: str) -> StorageError:
    """Our error for what S3 itself answered."""
    code = error_code(error)
    response = getattr(error, "response", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = redact(str(response.get("Error", {}).get("Message") or error))
    if is_foreign(error) and status not in (401, 403):
        failure = TransientStorageError if status >= 500 or status == 429 else StorageError
        return failure(f"{what}: HTTP {status}, without an error of S3", _NO_STORE)
    text = f"{what}: {code}: {message}" if code != message else f"{what}: {code}"
    if (status >= 500 and status != 501) or status == 429 or code in _TRANSIENT:
        return TransientStorageError(text)
    return StorageError(text, _HINTS.get(code, _RIGHTS if status in (401, 403) else None))
