"""How storages are reached: by URL prefix, the longer one wins."""

from __future__ import annotations

from typing import Any

import botocore
import pytest

from svc_dist.errors import RecipeError
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.open import open_storage
from svc_dist.storage.s3.client import connect

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
    more = {"config_kwargs": {"s3": {"addressing_style": "path"}}, "requester_pays": True}
    made = connect(ClientOptions("http://127.0.0.1:1", None, "eu-west-1", True, more), timeout=7)
    meta = made.client.meta
    assert meta.endpoint_url == "http://127.0.0.1:1"
    assert meta.region_name == "eu-west-1"
    assert meta.config.signature_version is botocore.UNSIGNED
    assert meta.config.retries["total_max_attempts"] == 1
    assert meta.config.read_timeout == 7
    assert meta.config.s3["addressing_style"] == "path"
    assert made.credentials is None
    assert made.requester_pays


def test_one_client_serves_all_of_one_kind() -> None:
    first = connect(ClientOptions("http://127.0.0.1:1"), 60)
    assert first is connect(ClientOptions("http://127.0.0.1:1"), 60)
    assert first is not connect(ClientOptions("http://127.0.0.1:2"), 60)
    assert first is not connect(ClientOptions("http://127.0.0.1:1"), 5)


def test_options_that_a_storage_does_not_know_are_refused() -> None:
    with pytest.raises(RecipeError, match="anonymous is for s3"):
        open_storage("memory://x", Access({"": ClientOptions(anonymous=True)}))
    with pytest.raises(RecipeError, match="profile and region are for s3"):
        open_storage("memory://x", Access({"": ClientOptions(profile="p")}))


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ({"default_block_size": 1}, "client: the S3 client has no option 'default_block_size'"),
        ({"client_kwargs": {"region": "x"}}, "client.client_kwargs: the S3 client has no option 'region'"),
    ],
)
def test_an_unknown_option_of_the_s3_client_is_named(client: dict[str, Any], name: str) -> None:
    with pytest.raises(RecipeError, match=name) as refused:
        open_storage("s3://bucket/model", Access({"": ClientOptions(client=client)}))
    assert "known: " in str(refused.value)


def test_an_unknown_option_of_botocore_is_named() -> None:
    options = ClientOptions("http://127.0.0.1:1", anonymous=True, client={"config_kwargs": {"read_timeot": 5}})
    with pytest.raises(RecipeError, match="read_timeot"):
        open_storage("s3://bucket/model", Access({"": options})).names()
