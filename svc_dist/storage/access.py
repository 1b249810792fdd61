"""How storages are reached: options of their clients by URL prefix, and how long to insist. Never a credential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from svc_dist.errors import RecipeError, StorageError
from svc_dist.storage.secrets import refuse_credentials

_S3, _GOOGLE, _HUB = ("s3", "s3a"), ("gs", "gcs"), "hf"  # protocols
_POOL = 64  # connections that one client may hold


@dataclass(frozen=True)
class ClientOptions:
    """Options of the client for one URL prefix. ``client``: whatever else its fsspec file system takes."""

    endpoint_url: str | None = None
    profile: str | None = None
    region: str | None = None
    anonymous: bool | None = None
    client: Mapping[str, Any] = field(default_factory=dict)

    def over(self, other: ClientOptions) -> ClientOptions:
        """These options, and the other's where these say nothing."""
        merged = {name: value for name, value in vars(self).items() if value is not None and name != "client"}
        return replace(other, **merged, client={**other.client, **self.client})


@dataclass(frozen=True)
class Access:
    """How every storage of a run is reached.

    ``options``: by URL prefix, of whole names; the longer prefix wins ("" is for all). ``parallel``: requests in flight
    for one unit. ``timeout``: seconds of one request, or without a byte of its answer. ``deadline``: seconds for which
    a request that fails for a passing reason is tried again.
    """

    options: Mapping[str, ClientOptions] = field(default_factory=dict)
    parallel: int = 16
    timeout: float = 60.0
    deadline: float = 300.0

    @classmethod
    def for_s3(cls, options: ClientOptions, **rest: Any) -> Access:
        """These options for S3; of them, whether to read without credentials, for Google's storage too."""
        google = ClientOptions(anonymous=options.anonymous)
        s3 = {f"{protocol}://": options for protocol in _S3}
        return cls({**s3, **{f"{protocol}://": google for protocol in _GOOGLE}}, **rest)

    def options_of(self, location: str) -> ClientOptions:
        """The options for a location."""
        found = ClientOptions()
        for prefix in sorted(self.options, key=len):
            if not prefix or f"{location}/".startswith(f"{prefix.removesuffix('/')}/"):
                found = self.options[prefix].over(found)
        return found

    def filesystem(self, location: str) -> tuple[Any, str]:
        """The fsspec file system of a URL and the path in it: one client per process and set of options.

        Raises RecipeError for a credential in the URL, StorageError naming what to install.
        """
        import fsspec

        refuse_credentials(location)
        protocol = location.split("://", 1)[0]
        try:
            arguments = _arguments(protocol, self.options_of(location), self.timeout)
            filesystem, path = fsspec.core.url_to_fs(location, **arguments)
            return filesystem, path
        except (ImportError, ValueError, TypeError) as error:
            raise StorageError(f"cannot open {location}: {error}") from None


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
    if protocol in _S3:
        return
    if options.anonymous and protocol not in (*_GOOGLE, _HUB):
        raise RecipeError(
            f"{where}anonymous is for s3://, gs:// and hf://, not {protocol}://",
            "give the option that its file system takes under `client`",
        )
    if options.profile is not None or options.region is not None:
        raise RecipeError(f"{where}profile and region are for s3://, not {protocol}://")


#: One way to reach everything: the environment's.
DEFAULT_ACCESS = Access()


def _arguments(protocol: str, options: ClientOptions, timeout: float) -> dict[str, Any]:
    """What the file system's constructor gets."""
    arguments: dict[str, Any] = dict(options.client)
    if protocol in _S3:
        config = {
            "max_pool_connections": _POOL,
            "connect_timeout": min(10.0, timeout),
            "read_timeout": timeout,
            # Retries are ours alone: counted, with one deadline. Layers of them would multiply.
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
        client = dict(arguments.pop("client_kwargs", {}))
        if options.region is not None:
            client["region_name"] = options.region
        arguments.update(
            use_listings_cache=False,
            config_kwargs={**config, **arguments.pop("config_kwargs", {})},
            client_kwargs=client,
        )
        if options.endpoint_url is not None:
            arguments["endpoint_url"] = options.endpoint_url
        if options.profile is not None:
            arguments["profile"] = options.profile
        if options.anonymous is not None:
            arguments["anon"] = options.anonymous
        return arguments
    check_options(protocol, options)
    if protocol == _HUB:
        if options.endpoint_url is not None:
            arguments["endpoint"] = options.endpoint_url
        if options.anonymous:
            arguments["token"] = False
        return arguments
    if options.endpoint_url is not None:
        arguments["endpoint_url"] = options.endpoint_url
    if options.anonymous:
        arguments["token"] = "anon"
    return arguments
