"""How storages are reached: by URL prefix, the longer one wins."""

from __future__ import annotations

import pytest

from svc_dist.errors import RecipeError, StorageError
from svc_dist.storage.access import Access, ClientOptions

ALL = ClientOptions(endpoint_url="http://all", profile="everyday")


def test_the_longest_prefix_wins_key_by_key() -> None:
    access = Access(
        {
            "s3://models/": ClientOptions(endpoint_url="http://models", client={"a": 1, "b": 1}),
            "": ALL,
            "s3://models/public/": ClientOptions(anonymous=True, client={"b": 2}),
        }
    )
    assert access.options_of("s3://other/x") == ALL
    assert access.options_of("s3://models/x") == ClientOptions("http://models", "everyday", client={"a": 1, "b": 1})
    assert access.options_of("s3://models/public/x") == ClientOptions(
        "http://models", "everyday", None, True, {"a": 1, "b": 2}
    )


def test_an_s3_client_gets_its_options_and_no_retries_of_its_own() -> None:
    options = ClientOptions("http://127.0.0.1:1", None, "eu-west-1", True, {"config_kwargs": {"s3": {"a": 1}}})
    filesystem, path = Access({"s3://bucket": options}, timeout=7).filesystem("s3://bucket/model")
    assert path == "bucket/model"
    assert filesystem.endpoint_url == "http://127.0.0.1:1"
    assert filesystem.anon
    assert filesystem.client_kwargs["region_name"] == "eu-west-1"
    assert filesystem.config_kwargs["retries"]["total_max_attempts"] == 1
    assert filesystem.config_kwargs["read_timeout"] == 7
    assert filesystem.config_kwargs["s3"] == {"a": 1}


def test_one_client_serves_all_of_one_kind() -> None:
    first, _ = Access({"": ClientOptions("http://127.0.0.1:1")}).filesystem("s3://one/model")
    again, _ = Access({"": ClientOptions("http://127.0.0.1:1")}).filesystem("s3://two/model")
    other, _ = Access({"": ClientOptions("http://127.0.0.1:2")}).filesystem("s3://one/model")
    assert first is again
    assert first is not other


def test_options_that_a_storage_does_not_know_are_refused() -> None:
    with pytest.raises(RecipeError, match="anonymous is for s3"):
        Access({"": ClientOptions(anonymous=True)}).filesystem("memory://x")
    with pytest.raises(RecipeError, match="profile and region are for s3"):
        Access({"": ClientOptions(profile="p")}).filesystem("memory://x")
    with pytest.raises(StorageError, match="cannot open nosuch://x"):
        Access().filesystem("nosuch://x")
