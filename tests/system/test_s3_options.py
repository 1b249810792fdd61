"""How a storage is reached, by recipe and by flags: which options count for which URL, and that results do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

import svc_dist
from svc_dist.errors import ExitCode, RecipeError
from svc_dist.recipe.load import load_recipe, recipe_from
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.s3.client import forget_clients
from tests.support.checkpoints import recipe_data, write_recipe
from tests.support.command import Run
from tests.support.gateway import Gateway
from tests.support.s3_files import model_hashes, moto_is_slow, put_models, stopping_after
from tests.support.s3_servers import Bucket

KEYS = {"max_shard_size": "700B"}


@pytest.fixture
def bare(s3: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bucket:
    """A bucket of which the environment says nothing: neither where it is nor who may read it."""
    for name in s3.server.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    (tmp_path / "config").write_text("[profile work]\nregion = us-east-1\n")
    (tmp_path / "credentials").write_text(
        f"[work]\naws_access_key_id = {s3.server.access_key}\naws_secret_access_key = {s3.server.secret_key}\n"
        "[other]\naws_access_key_id = somebody\naws_secret_access_key = else-with-another-key\n"
    )
    forget_clients()
    return s3


@moto_is_slow
def test_flags_fill_in_what_the_recipe_leaves_out(bare: Bucket, models: list[Path], run: Run, tmp_path: Path) -> None:
    urls = put_models(bare, models)
    output, flags = f"{bare.url}/out", ("--endpoint-url", bare.server.endpoint, "--profile", "work")
    recipe = write_recipe(tmp_path / "recipe.yaml", urls, **KEYS)
    for command in (("plan", recipe, output), ("doctor", recipe, output), ("merge", recipe, output)):
        ended = run(*command, *flags)
        assert ended.code == ExitCode.DONE, ended.err + ended.out
    for command in (("status",), ("verify", "--deep")):
        assert run(*command, output, *flags).code == ExitCode.DONE
    assert "complete merge" in run("clean", output, "--yes", *flags).err
    # The recipe's own options win over the flags.
    storage = {bare.url: {"profile": "work", "endpoint_url": bare.server.endpoint}}
    recipe = write_recipe(tmp_path / "recipe.yaml", urls, storage=storage, **KEYS)
    wrong = ("--profile", "other", "--endpoint-url", "http://127.0.0.1:9")
    assert run("merge", recipe, output, *wrong, "--storage-deadline", "0").code == ExitCode.DONE


@moto_is_slow
@pytest.mark.parametrize("end", ["", "/"])
def test_options_for_a_bucket_are_for_its_root_too(
    bare: Bucket, models: list[Path], run: Run, tmp_path: Path, end: str
) -> None:
    storage = {f"{bare.url}{end}": {"profile": "work", "endpoint_url": bare.server.endpoint, "region": "us-east-1"}}
    recipe = write_recipe(tmp_path / "recipe.yaml", models, storage=storage, **KEYS)
    ended = run("merge", recipe, bare.url, "--storage-deadline", "0")
    assert ended.code == ExitCode.DONE, ended.err


def test_the_longest_prefix_wins_key_by_key() -> None:
    access = Access(
        {
            "": ClientOptions(region="everywhere", profile="mine"),
            "s3://": ClientOptions(endpoint_url="https://one"),
            "s3://bucket": ClientOptions(endpoint_url="https://two", client={"a": 1, "b": 1}),
            "s3://bucket/folder/": ClientOptions(region="here", anonymous=False, client={"b": 2}),
        }
    )

    def found(location: str) -> tuple[Any, ...]:
        options = access.options_of(location)
        return options.endpoint_url, options.region, options.profile, options.anonymous, dict(options.client)

    assert found("gs://bucket") == (None, "everywhere", "mine", None, {})
    assert found("s3://other/x") == ("https://one", "everywhere", "mine", None, {})
    assert found("s3://bucket") == ("https://two", "everywhere", "mine", None, {"a": 1, "b": 1})
    assert found("s3://bucket/folders") == ("https://two", "everywhere", "mine", None, {"a": 1, "b": 1})
    for location in ("s3://bucket/folder", "s3://bucket/folder/model"):
        assert found(location) == ("https://two", "here", "mine", False, {"a": 1, "b": 2})
    assert found("s3://bucket2/folder") == ("https://one", "everywhere", "mine", None, {}), "another bucket"


@moto_is_slow
def test_client_options_reach_the_client(bare: Bucket, models: list[Path], run: Run, tmp_path: Path) -> None:
    put_models(bare, models)
    with Gateway(bare.server.endpoint) as gateway:
        client = {"client_kwargs": {"endpoint_url": gateway.endpoint}, "config_kwargs": {"user_agent_extra": "mark"}}
        storage = {"s3://": {"profile": "work", "client": client}}
        urls = [f"{bare.url}/models/{model.name}" for model in models]
        assert run("plan", write_recipe(tmp_path / "r.yaml", urls, storage=storage)).code == ExitCode.DONE
        assert len(gateway.requests) > 10


@moto_is_slow
def test_public_data_is_read_without_credentials(bare: Bucket, models: list[Path], run: Run, tmp_path: Path) -> None:
    urls = put_models(bare, models)
    signed: list[bool] = []
    with Gateway(bare.server.endpoint) as gateway:
        gateway.headers_seen = lambda headers: signed.append("Authorization" in headers)
        storage = {f"{bare.url}/models": {"anonymous": True, "endpoint_url": gateway.endpoint}}
        run("plan", write_recipe(tmp_path / "recipe.yaml", urls, storage=storage))
        run("plan", write_recipe(tmp_path / "flags.yaml", urls), "--anonymous", "--endpoint-url", gateway.endpoint)
    assert signed
    assert not any(signed)


@moto_is_slow
def test_another_endpoint_goes_on_with_the_same_merge(
    s3: Bucket, models: list[Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = put_models(s3, models)
    plain = write_recipe(tmp_path / "recipe.yaml", urls, **KEYS)
    svc_dist.merge(plain, f"{s3.url}/direct")
    with stopping_after(3):
        svc_dist.merge(plain, f"{s3.url}/out", slots=1)
    with Gateway(s3.server.endpoint) as gateway:
        storage = {
            "s3://": {"endpoint_url": gateway.endpoint, "client": {"config_kwargs": {"max_pool_connections": 5}}}
        }
        other = write_recipe(tmp_path / "recipe.yaml", urls, storage=storage, **KEYS)
        assert svc_dist.make_plan(other).to_json() == svc_dist.make_plan(recipe_data(urls, **KEYS)).to_json()
        ended = run("merge", other, f"{s3.url}/out")
        assert ended.code == ExitCode.DONE, ended.err
        assert "resuming: 3 of " in ended.err
        assert any("partNumber" in request for request in gateway.requests)
    assert model_hashes(s3, "out") == model_hashes(s3, "direct")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["s3://b/:", "  endpoint: https://x"], r":7 \(storage.s3://b/.endpoint\): unknown key .*'endpoint_url'"),
        (["s3://b/:", "  anonymous: perhaps"], r":7 \(storage.s3://b/.anonymous\)"),
        (["s3://b/:", "  client: [1]"], r":7 \(storage.s3://b/.client\): .* must be a mapping"),
        (["s3://b/: here"], r":6 \(storage.s3://b/\): 'here' must be a mapping"),
        (["- s3://b/"], r":5 \(storage\): .* must be a mapping"),
        (["bucket/: {}"], r":6 \(storage.bucket/\): .*like s3://bucket/"),
        (
            ["s3://b/:", "  endpoint_url: localhost:9000"],
            r":\d \(storage.s3://b/\): the endpoint localhost:9000 is no URL",
        ),
        (["s3://b/:", "  region: 5"], r":7 \(storage.s3://b/.region\): 5 must be text"),
        (["gs://b/:", "  region: x"], r":\d \(storage.gs://b/\): profile and region are for s3://"),
        (["hdfs://b/:", "  anonymous: true"], r":\d \(storage.hdfs://b/\): anonymous is for s3://, gs:// and hf://"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, lines: list[str], said: str) -> None:
    file = tmp_path / "recipe.yaml"
    text = ["base_model: base", "merge_method: linear", "models:", "- model: expert", "storage:"]
    file.write_text("\n".join([*text, *(f"  {line}" for line in lines)]) + "\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml" + said):
        load_recipe(file)


def test_storage_is_no_part_of_the_recipe_that_is_recorded() -> None:
    storage = {"s3://b": {"endpoint_url": "https://host:9000", "profile": "work"}}
    assert recipe_from(recipe_data(["a", "b"], storage=storage)).plain == recipe_from(recipe_data(["a", "b"])).plain


@moto_is_slow
def test_flags_for_s3_leave_other_storages_alone(s3: Bucket, models: list[Path], run: Run, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for model in models:
        memory.put(str(model), f"/{s3.name}/{model.name}", recursive=True)
    recipe = write_recipe(tmp_path / "recipe.yaml", [f"memory://{s3.name}/{model.name}" for model in models], **KEYS)
    try:
        ended = run("merge", recipe, f"{s3.url}/out", "--endpoint-url", s3.server.endpoint)
        assert ended.code == ExitCode.DONE, ended.err
        for flags in (("--profile", "work"), ("--anonymous",)):
            ended = run("plan", recipe, *flags)
            assert ended.code == ExitCode.DONE, ended.err
    finally:
        memory.rm(f"/{s3.name}", recursive=True)
