"""How storages are reached: options of their clients by URL prefix, time limits of requests. Never a credential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from svc_dist.errors import RecipeError, StorageError
from svc_dist.storage.secrets import refuse_credentials

S3, GOOGLE, AZURE, HUB = ("s3", "s3a"), ("gs", "gcs"), ("az", "abfs", "abfss"), "hf"  # protocols
Identity = TypeVar("Identity")
#: The beginning of the location of a model that an earlier document of a recipe file makes.
DOCUMENT = "document://"
#: The same of a state dict in this process's memory.
MEMORY = "dict://"
#: The storages that fsspec reaches, and the package of each one's driver.
DRIVERS = {
    "memory": "fsspec", "http": "aiohttp", "https": "aiohttp", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs",
    "abfs": "adlfs", "abfss": "adlfs", "oss": "ossfs", "oci": "ocifs", "hdfs": "pyarrow", "webhdfs": "requests",
    "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol",
}  # fmt: skip
#: Options of the client for S3, and of its ``client_kwargs``: those of botocore's ``create_client``.
_S3_CLIENT = ("client_kwargs", "config_kwargs", "requester_pays", "use_ssl", "anon")
_S3_CLIENT_KWARGS = ("region_name", "endpoint_url", "use_ssl", "verify", "api_version")


@dataclass(frozen=True)
class ClientOptions:
    """Options of the client for one URL prefix.

    ``client``: on S3 ``client_kwargs``, ``config_kwargs`` (botocore's Config), ``requester_pays``, ``use_ssl``,
    ``anon``; elsewhere whatever the fsspec file system takes.
    """

    endpoint_url: str | None = None
    profile: str | None = None
    region: str | None = None
    anonymous: bool | None = None
    client: Mapping[str, Any] = field(default_factory=dict)

    def over(self, other: ClientOptions) -> ClientOptions:
        """These options, and the other's where these say nothing."""
        merged = {name: value for name, value in vars(self).items() if value is not None and name != "client"}
        return replace(other, **merged, client={**other.client, **self.client})


class ModelFiles(Protocol):
    """The model of an earlier document of a recipe file: planned, or made."""

    def open(self, access: Access) -> Any:
        """The storage of its files."""

    def known(self, file: Any) -> Any:
        """The identity that a planned file has in the storage where it lies."""


@runtime_checkable
class InMemory(Protocol):
    """A storage whose files are in this process's memory."""

    def view(self, name: str, start: int, end: int) -> memoryview:
        """Bytes ``[start, end)`` of a file, without a copy where possible."""


@dataclass(frozen=True)
class Access:
    """How every storage of a run is reached.

    ``options``: by URL prefix, of whole names; the longer prefix wins ("" is for all). ``parallel``: requests in flight
    for each unit that reads. ``timeout``: seconds of one request, or without a byte of its answer. ``deadline``:
    seconds for which a transient failure of a request is retried. ``patience``: the same for a storage that has not
    answered this process yet, whose address is probably wrong. ``models``: what ``document://NAME`` stands for, by
    name, and a location ``dict://NAME``, by itself.
    """

    options: Mapping[str, ClientOptions] = field(default_factory=dict)
    parallel: int = 16
    timeout: float = 60.0
    deadline: float = 300.0
    patience: float = 20.0
    models: Mapping[str, ModelFiles] = field(default_factory=dict)

    def model(self, location: str) -> Any:
        """The storage of an earlier document's model. Raises StorageError where none has the name."""
        files = self.models.get(location.removeprefix(DOCUMENT))
        if files is None:
            raise StorageError(
                f"{location}: made by another document of the recipe, and not kept",
                "give every document of the recipe a name to keep all models",
            )
        return files.open(self)

    def known(self, location: str, file: Identity) -> Identity:
        """The identity that a planned file has in the storage where it lies."""
        files = self.models.get(location.removeprefix(DOCUMENT)) if location.startswith(DOCUMENT) else None
        return file if files is None else cast(Identity, files.known(file))

    @classmethod
    def for_s3(cls, options: ClientOptions, **rest: Any) -> Access:
        """These options for S3; of them, whether to read without credentials, for Google's storage too."""
        google = ClientOptions(anonymous=options.anonymous)
        s3 = {f"{protocol}://": options for protocol in S3}
        return cls({**s3, **{f"{protocol}://": google for protocol in GOOGLE}}, **rest)

    def options_of(self, location: str) -> ClientOptions:
        """The options for a location."""
        options = ClientOptions()
        for prefix in sorted(self.options, key=len):
            if not prefix or f"{location}/".startswith(f"{prefix.removesuffix('/')}/"):
                options = self.options[prefix].over(options)
        return options


def check_endpoint(endpoint: str | None, where: str) -> None:
    """Raise RecipeError when an endpoint is no URL, or one with a credential. ``where`` says where it stands."""
    if endpoint is None:
        return
    refuse_credentials(endpoint, where)
    if not endpoint.startswith(("http://", "https://")):
        raise RecipeError(f"{where}: the endpoint {endpoint} is no URL", "write it like https://host:9000")


def check_options(protocol: str, options: ClientOptions, where: str = "") -> None:
    """Raise RecipeError for an option that a kind of storage does not have. ``where`` says where it stands."""
    where = f"{where}: " if where else ""
    if protocol in S3:
        _check_known(options.client, _S3_CLIENT, f"{where}client")
        _check_known(options.client.get("client_kwargs", {}), _S3_CLIENT_KWARGS, f"{where}client.client_kwargs")
        return
    if options.anonymous and protocol not in (*GOOGLE, HUB):
        raise RecipeError(
            f"{where}anonymous is for s3://, gs:// and hf://, not {protocol}://",
            "give the option that its file system takes under `client`",
        )
    if options.profile is not None or options.region is not None:
        raise RecipeError(f"{where}profile and region are for s3://, not {protocol}://")


def _check_known(options: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise RecipeError(f"{where}: the S3 client has no option '{unknown}'", f"known: {', '.join(known)}")


#: One way to reach everything: the environment's.
DEFAULT_ACCESS = Access()
