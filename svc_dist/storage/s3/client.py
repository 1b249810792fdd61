"""botocore's client for S3: one for each process and set of options, made when it is first needed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from svc_dist.errors import RecipeError
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.s3.errors import WITHOUT_BODY, error_code, is_foreign
from svc_dist.storage.s3.limiter import MOST, Limiter, shared_time
from svc_dist.storage.s3.ranged import RangedReads


@dataclass(frozen=True)
class S3Client:
    """A client, and what it signs with (None: without credentials). Its methods may be called from many threads."""

    client: Any
    credentials: Any
    requester_pays: bool
    ranged: RangedReads
    options: ClientOptions

    def call(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """One operation, as botocore names it. Raises what botocore does."""
        from botocore.exceptions import ClientError

        if operation == "get_object":
            answer = self.ranged.get(parameters, lambda **item: self.call("get_object", item))
            if answer is not None:
                return answer
        arguments = dict(parameters)
        if self.requester_pays:
            name = self.client.meta.method_to_api_mapping[operation]
            if "RequestPayer" in self.client.meta.service_model.operation_model(name).input_shape.members:
                arguments["RequestPayer"] = "requester"
        try:
            response: dict[str, Any] = getattr(self.client, operation)(**arguments)
        except ClientError as error:
            if not is_foreign(error):
                _answered.add(repr(self.options))
            if operation == "head_object" and error_code(error) in WITHOUT_BODY:  # the refusal of a GET says why
                self.client.get_object(**arguments, Range="bytes=0-0")["Body"].close()
            raise
        _answered.add(repr(self.options))
        return response

    def secrets(self) -> list[str]:
        """The credentials that the client signs with, wherever botocore has them from."""
        from botocore.exceptions import BotoCoreError

        if self.credentials is None:
            return []
        try:
            frozen = self.credentials.get_frozen_credentials()
        except BotoCoreError:  # they cannot be renewed: nothing is signed with them either
            return []
        return [value for value in (frozen.access_key, frozen.secret_key, frozen.token) if value]


_clients: dict[str, S3Client] = {}
_limiters: dict[str, Limiter] = {}
_answered: set[str] = set()  # by options: the storages that have answered this process
_loaders: list[Any] = []  # one, of botocore's descriptions of services: reading them takes most of a client's making
_lock = threading.Lock()


def connect(options: ClientOptions, timeout: float) -> S3Client:
    """The client with these options, whose requests end after ``timeout`` seconds without a byte.

    Raises RecipeError for an option that botocore does not know, and what botocore raises.
    """
    key = repr((options, timeout))
    with _lock:  # clients are thread-safe, sessions are not
        if key not in _clients:
            _clients[key] = _create(options, timeout)
        return _clients[key]


def limiter_of(options: ClientOptions, bucket: str) -> Limiter:
    """The limiter of this process's large requests to a bucket; it hears of the refusals of others on this node."""
    key = repr((options, bucket))
    with _lock:
        if key not in _limiters:
            endpoint = options.endpoint_url or os.environ.get("AWS_ENDPOINT_URL", "")
            _limiters[key] = Limiter(f"s3://{bucket}", shared_time(f"{endpoint} {bucket}"))
        return _limiters[key]


def seconds_of_retries(options: ClientOptions, access: Access) -> float:
    """For how long a request to the storage with these options is retried: not long before its first answer."""
    return access.deadline if repr(options) in _answered else min(access.patience, access.deadline)


def signing_secrets() -> list[str]:
    """The credentials of every client of this process."""
    return [secret for client in list(_clients.values()) for secret in client.secrets()]


def forget_clients() -> None:
    """Make new clients from now on: in a forked process, or where the environment has changed."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()
    _limiters.clear()
    _answered.clear()


os.register_at_fork(after_in_child=forget_clients)


def read_time(value: Any) -> Any:
    """A time in an answer, as botocore reads it, but in a hundredth of the time: a page of a listing has a thousand."""
    with contextlib.suppress(TypeError, ValueError):
        if (read := datetime.fromisoformat(value)).tzinfo is not None:
            return read
    from botocore.utils import parse_timestamp

    return parse_timestamp(value)


def _checksum_first(params: dict[str, Any], **_: Any) -> None:
    """Have the checksum of a body in a header, over TLS too, and not after it: that form is copied many times."""
    algorithm = params.get("context", {}).get("checksum", {}).get("request_algorithm")
    if isinstance(algorithm, dict) and algorithm.get("in") == "trailer":
        algorithm["in"] = "header"


def _create(options: ClientOptions, timeout: float) -> S3Client:
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.handlers import add_expect_header

    given = dict(options.client)
    anonymous = bool(given.get("anon") if options.anonymous is None else options.anonymous)
    config = {
        "max_pool_connections": MOST,
        "connect_timeout": min(10.0, timeout),
        "read_timeout": timeout,
        # Retries are ours alone: counted, with one deadline. Layers of them would multiply.
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "response_checksum_validation": "when_required",  # bodies are read in ranges, which have none
        **given.get("config_kwargs", {}),
        **({"signature_version": UNSIGNED} if anonymous else {}),
    }
    named = {"region_name": options.region, "endpoint_url": options.endpoint_url}
    arguments = {
        "use_ssl": given.get("use_ssl", True),
        **given.get("client_kwargs", {}),
        **{name: value for name, value in named.items() if value is not None},
    }
    try:
        configuration = Config(**config)
    except TypeError as error:
        raise RecipeError(f"config_kwargs of the S3 client: {error}", "take the option out") from None
    session = botocore.session.Session(profile=options.profile)
    _loaders.append(session.get_component("data_loader"))
    session.register_component("data_loader", _loaders[0])
    del _loaders[1:]
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_time)
    credentials = None if anonymous else session.get_credentials()
    client = session.create_client("s3", config=configuration, **arguments)
    # Waiting for the server's go-ahead would cost each part a round trip.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-call.s3.{operation}", _checksum_first)
    return S3Client(client, credentials, bool(given.get("requester_pays")), RangedReads(client), options)
