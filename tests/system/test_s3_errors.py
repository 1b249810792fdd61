"""What will not pass ends a merge at once: its exit code, the bucket and operation, and what to do. No retries."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from svc_dist.errors import ExitCode
from svc_dist.plan.model import Plan
from svc_dist.run.placement import AHEAD
from svc_dist.run.schedule import FINISHING
from svc_dist.run_folder.journal import Journal
from svc_dist.storage import retry
from svc_dist.storage.s3.client import forget_clients
from tests.support.checkpoints import write_recipe
from tests.support.command import Ended, Run
from tests.support.gateway import Gateway
from tests.support.s3_files import listing, moto_is_slow, put, put_models, read
from tests.support.s3_servers import Bucket

SLOTS = 2
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture(autouse=True)
def never_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is tried a second time, and nothing is found in the user's own AWS configuration."""

    def refuse(seconds: float) -> None:
        raise AssertionError(f"tried again after {seconds} s")

    monkeypatch.setattr(retry, "time", type("clock", (), {"sleep": refuse, "monotonic": time.monotonic}))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets variables (None: takes them away), for clients that are yet to be made."""

    def change(**variables: str | None) -> None:
        for name, value in variables.items():
            monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
        forget_clients()

    return change


def recipe_of(folder: Path, locations: list[str] | list[Path], name: str = "recipe.yaml") -> Path:
    return write_recipe(folder / name, locations, max_shard_size="700B")


def refused(run: Run, arguments: tuple[str | Path, ...], *words: str, code: int = ExitCode.STORAGE) -> Ended:
    """Run a command that must fail at once, with these words and a remedy."""
    began = time.monotonic()
    ended = run(*arguments)
    assert ended.code == code, ended.err
    assert time.monotonic() - began < 60, "the deadline for retries is 300"
    assert "Traceback" not in ended.err
    error = ended.err[ended.err.index("error: ") :]
    for word in words:
        assert word in error
    assert len(error.splitlines()) > 1, f"no remedy: {error}"
    return ended


COMMANDS = ("merge", "plan", "status", "verify", "clean")


def arguments_of(command: str, recipe: Path, output: str) -> tuple[str | Path, ...]:
    return (command, recipe, output) if command in ("merge", "plan") else (command, output)


@pytest.mark.parametrize(
    ("wrong", "command"),
    [
        *(("AWS_SECRET_ACCESS_KEY", command) for command in COMMANDS),
        ("AWS_ACCESS_KEY_ID", COMMANDS[0]),
        *(pytest.param("AWS_ACCESS_KEY_ID", command, marks=pytest.mark.slow) for command in COMMANDS[1:]),
    ],
)
def test_wrong_credentials(
    disk_s3: Bucket,
    models: list[Path],
    run: Run,
    tmp_path: Path,
    environ: Callable[..., None],
    command: str,
    wrong: str,
) -> None:
    recipe = recipe_of(tmp_path, models)
    environ(**{wrong: "not-the-right-one"})
    code = "SignatureDoesNotMatch" if wrong == "AWS_SECRET_ACCESS_KEY" else "InvalidAccessKeyId"
    arguments = arguments_of(command, recipe, f"{disk_s3.url}/out")
    advice = "check AWS_ACCESS_KEY_ID, the profile" if code == "InvalidAccessKeyId" else "check the credentials"
    refused(run, arguments, f"{disk_s3.url}/out", code, advice)
    assert listing(disk_s3) == {}


def test_wrong_credentials_for_an_input(
    disk_s3: Bucket, models: list[Path], run: Run, tmp_path: Path, environ: Callable[..., None]
) -> None:
    recipe = recipe_of(tmp_path, put_models(disk_s3, models))
    environ(AWS_SECRET_ACCESS_KEY="not-the-right-one")
    words = (f"{disk_s3.url}/models/", "list_objects_v2", "SignatureDoesNotMatch", "check the credentials")
    refused(run, ("merge", recipe, tmp_path / "out"), *words)
    refused(run, ("plan", recipe), *words)
    assert not (tmp_path / "out").exists()


@moto_is_slow
@pytest.mark.parametrize("command", COMMANDS[:2])
def test_no_credentials(
    s3: Bucket, models: list[Path], run: Run, tmp_path: Path, environ: Callable[..., None], command: str
) -> None:
    recipe = recipe_of(tmp_path, models)
    environ(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    arguments = arguments_of(command, recipe, f"{s3.url}/out")
    refused(run, arguments, f"{s3.url}/out", "credentials", "AWS_PROFILE")


@moto_is_slow
def test_a_profile_that_is_not_there(s3: Bucket, models: list[Path], run: Run, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, models)
    refused(
        run,
        ("merge", recipe, f"{s3.url}/out", "--profile", "nobody"),
        f"{s3.url}/out",
        "nobody",
        "check the credentials",
    )


@moto_is_slow
def test_an_endpoint_that_is_no_url(s3: Bucket, models: list[Path], run: Run, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, models)
    arguments = ("merge", recipe, f"{s3.url}/out", "--endpoint-url", "localhost:9000")
    refused(run, arguments, "localhost:9000", "https://", code=ExitCode.USAGE)


def test_a_url_that_names_no_bucket(
    models: list[Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of ``s3://$BUCKET`` without the variable: it is no path of this machine either."""
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(tmp_path, models)
    bad = recipe_of(tmp_path, [*models[:2], "s3://"], "bad.yaml")
    before = sorted(tmp_path.iterdir())
    for url in ("s3://", "s3:///", "s3:///folder"):
        refused(run, ("merge", recipe, url), "names no bucket", "s3://bucket/folder", code=ExitCode.USAGE)
    refused(run, ("merge", bad, tmp_path / "out"), "names no bucket", "s3://bucket/folder", code=ExitCode.USAGE)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", COMMANDS[::4])
def test_no_bucket_for_the_output(s3: Bucket, models: list[Path], run: Run, tmp_path: Path, command: str) -> None:
    recipe = recipe_of(tmp_path, models)
    missing = f"s3://no-{s3.name}"
    refused(run, arguments_of(command, recipe, f"{missing}/out"), missing, "NoSuchBucket", "check the bucket's name")
    assert f"no-{s3.name}" not in [entry["Name"] for entry in s3.client().list_buckets()["Buckets"]]


def test_no_bucket_and_no_model_for_an_input(s3: Bucket, models: list[Path], run: Run, tmp_path: Path) -> None:
    urls = put_models(s3, models)
    recipe = recipe_of(tmp_path, [*urls[:2], f"s3://no-{s3.name}/expert"])
    words = (f"s3://no-{s3.name}/expert", "list_objects_v2", "NoSuchBucket", "check the bucket's name")
    refused(run, ("merge", recipe, f"{s3.url}/out"), *words)
    recipe = recipe_of(tmp_path, [*urls[:2], f"{s3.url}/models/expert"])
    refused(run, ("merge", recipe, f"{s3.url}/out"), f"{s3.url}/models/expert: no such model", "check the path or URL")
    assert listing(s3, "out") == {}


@pytest.fixture
def once_planned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Have something happen when a merge has recorded its plan."""
    record_plan = Journal.record_plan

    def happen(what: Callable[[], None]) -> None:
        def recorded(self: Journal, plan: Plan) -> None:
            record_plan(self, plan)
            what()

        monkeypatch.setattr(Journal, "record_plan", recorded)

    return happen


@moto_is_slow
@pytest.mark.parametrize("output", ["s3", "local"])
def test_an_input_that_is_deleted_in_the_middle(
    s3: Bucket,
    models: list[Path],
    run: Run,
    tmp_path: Path,
    once_planned: Callable[[Callable[[], None]], None],
    output: str,
) -> None:
    recipe = recipe_of(tmp_path, put_models(s3, models))
    key = f"models/expert1/{SHARD}"
    data = read(s3, key)
    once_planned(lambda: s3.client().delete_object(Bucket=s3.name, Key=key))
    target = f"{s3.url}/out" if output == "s3" else str(tmp_path / "out")
    refused(run, ("merge", recipe, target), f"{s3.url}/models/expert1", SHARD, "get_object", "put it back")
    put(s3, key, data)
    assert run("merge", recipe, target).code == ExitCode.DONE, "the ETag is the same"


@moto_is_slow
@pytest.mark.usefixtures("at_ray_home")
@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_an_input_that_is_overwritten_in_the_middle(
    s3: Bucket,
    models: list[Path],
    run: Run,
    tmp_path: Path,
    once_planned: Callable[[Callable[[], None]], None],
    executor: str,
) -> None:
    recipe = recipe_of(tmp_path, put_models(s3, models))
    key = f"models/expert1/{SHARD}"
    data = read(s3, key)
    once_planned(lambda: put(s3, key, data[:-1] + bytes([data[-1] ^ 1])))
    arguments = ("merge", recipe, f"{s3.url}/out", "--executor", executor)
    words = (f"{s3.url}/{key} changed since the plan was made", "put the planned file back")
    refused(run, arguments, *words, code=ExitCode.INPUT)
    refused(run, arguments, f"{s3.url}/{key}: was", "is", "--restart", code=ExitCode.INPUT)
    put(s3, key, data)
    assert run(*arguments).code == ExitCode.DONE
    assert run("verify", f"{s3.url}/out", "--deep").code == ExitCode.DONE


REFUSALS = {
    "ExpiredToken": (400, "the token has expired", "renew the credentials"),
    "InvalidAccessKeyId": (403, "no such key", "check AWS_ACCESS_KEY_ID, the profile and the endpoint"),
    "AccessDenied": (403, "Access Denied", "check the credentials"),
    "RequestTimeTooSkewed": (403, "the difference is too large", "set this machine's clock"),
}


def refused_from_a_moment_on(
    bucket: Bucket, models: list[Path], run: Run, folder: Path, environ: Callable[..., None], code: str, begin: str
) -> None:
    """The second request of a kind after planning, and whatever follows, is refused; then the merge goes on."""
    recipe = recipe_of(folder, put_models(bucket, models))
    status, message, remedy = REFUSALS[code]
    method, _, word = begin.partition(" ")
    planned: list[str] = []
    seen: list[str] = []

    def refuse(verb: str, path: str) -> tuple[int, str, str] | None:
        planned.extend([path] if "/plan.json" in path and verb == "PUT" else [])
        seen.extend([path] if planned and verb == method and word in path else [])
        return (status, code, message) if len(seen) > 1 else None

    with Gateway(bucket.server.endpoint, refuse) as gateway:
        environ(AWS_ENDPOINT_URL=gateway.endpoint)
        merge = ("merge", recipe, f"{bucket.url}/out", "--slots", str(SLOTS))
        ended = refused(run, merge, bucket.name, code, message, remedy)
        assert "plan.json" not in ended.err, "what ended the run, not what was refused while it ended"
        units = SLOTS * (1 + AHEAD)
        most = 60 if method == "HEAD" else units * 6 * 2 + FINISHING * 2 + 5
        assert 1 <= len(gateway.refused) <= most, (
            f"{units} units in flight read six ranges each and {FINISHING} shards are finished, or 16 shards are "
            "looked at, twice; then the end is recorded and the lock released; a second attempt would double it"
        )
        gateway.refuse = lambda method, path: None
        assert run("merge", recipe, f"{bucket.url}/out").code == ExitCode.DONE


@pytest.mark.parametrize(
    "code", [*list(REFUSALS)[:2], *(pytest.param(code, marks=pytest.mark.slow) for code in list(REFUSALS)[2:])]
)
def test_credentials_that_end_in_the_middle(
    disk_s3: Bucket, models: list[Path], run: Run, tmp_path: Path, code: str, environ: Callable[..., None]
) -> None:
    refused_from_a_moment_on(disk_s3, models, run, tmp_path, environ, code, "GET models/")


@moto_is_slow
@pytest.mark.parametrize("begin", ["PUT partNumber=", "PUT receipts/", "POST uploadId=", "HEAD out/model-"])
def test_a_token_that_expires_while_writing(
    s3: Bucket, models: list[Path], run: Run, tmp_path: Path, begin: str, environ: Callable[..., None]
) -> None:
    refused_from_a_moment_on(s3, models, run, tmp_path, environ, "ExpiredToken", begin)
