"""No credential ends up anywhere: in no file, no object, no line of a log or terminal, no error."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from urllib.parse import quote

import pytest

import svc_dist
from svc_dist.errors import ExitCode, SvcDistError
from svc_dist.storage.s3.client import forget_clients
from tests.support.checkpoints import write_recipe
from tests.support.command import Run, command, environment, short_home
from tests.support.gateway import Gateway
from tests.support.s3_files import listing, put_models, read, stopping_after
from tests.support.s3_servers import Bucket

KEY_ID = "AKIAQ7TESTKEYID0TEST"
SECRET = "wJalr/XUtnF+EMI&K7MDENG'bPx\"Rfi=CYEX %41<AMP>LE"
TOKEN = "IQoJb3JpZ2lu/X2VjEJr+//tok=en%2B'with\"quotes\\and spaces&<amp>=="


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder for everything that is written locally."""
    folder = tmp_path / "world"
    folder.mkdir()
    return folder


def leaks(text: bytes | str) -> list[str]:
    """The secrets in a text, as they are or written in some other way."""
    data = text.encode() if isinstance(text, str) else text
    found = []
    for secret in (KEY_ID, SECRET, TOKEN):
        forms = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret), quote(secret, safe="")}
        forms |= {base64.b64encode(secret.encode()).decode(), secret[:16], secret[-16:]}
        found += [form for form in forms if form.encode() in data]
    return found


def behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came of, shown in a traceback or not."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def assert_no_leaks(bucket: Bucket | None, folder: Path, *said: str) -> None:
    for text in said:
        assert leaks(text) == []
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "credentials":
            assert leaks(file.name) + leaks(file.read_bytes()) == []
    for key in listing(bucket) if bucket is not None else ():
        assert leaks(key) + leaks(read(bucket, key)) == []


@pytest.fixture(params=["environment", "profile"])
def secrets(request: pytest.FixtureRequest, moto_s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three secrets, in the environment or in a profile's file."""
    credentials = tmp_path / "credentials"
    credentials.write_text("")
    if request.param == "profile":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        credentials.write_text(
            f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\naws_session_token = {TOKEN}\n"
        )
    else:
        for name, value in (("ACCESS_KEY_ID", KEY_ID), ("SECRET_ACCESS_KEY", SECRET), ("SESSION_TOKEN", TOKEN)):
            monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    forget_clients()


@pytest.fixture
def moto_s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket on moto, which takes any credentials."""
    from tests.system.conftest import own_bucket

    yield from own_bucket(request.getfixturevalue("moto"), monkeypatch)


def test_a_merge_leaves_no_secret_anywhere(
    moto_s3: Bucket, models: list[Path], secrets: None, run: Run, world: Path
) -> None:
    recipe = write_recipe(world / "recipe.yaml", put_models(moto_s3, models), max_shard_size="700B")
    output = f"{moto_s3.url}/out"
    with stopping_after(3):
        svc_dist.merge(recipe, output, slots=1)
    assert_no_leaks(moto_s3, world)  # the run folder, with plan, lock, receipts and uploads
    said = []
    for arguments in (
        ("plan", recipe, output, "--json"),
        ("doctor", recipe, output),
        ("status", output),
        ("merge", recipe, output, "--log-format", "json"),
        ("merge", recipe, world / "out", "--scratch", world / "scratch"),
        ("verify", output, "--deep"),
    ):
        ended = run(*arguments)
        assert ended.code == ExitCode.DONE, ended.err
        said += [ended.out, ended.err]
    assert_no_leaks(moto_s3, world, *said)


@pytest.mark.slow
@pytest.mark.parametrize("secrets", ["environment"], indirect=True)
def test_a_command_of_its_own_with_ray_leaves_none(
    moto_s3: Bucket, models: list[Path], secrets: None, world: Path
) -> None:
    recipe = write_recipe(world / "recipe.yaml", put_models(moto_s3, models))
    arguments = command("merge", recipe, f"{moto_s3.url}/out", "--log-format", "json", "--executor", "ray")
    with short_home() as home:
        done = subprocess.run(arguments, env=environment(home), capture_output=True, text=True, check=False)
        assert done.returncode == ExitCode.DONE, done.stderr
        assert any(home.rglob("*.log")), "Ray's own"
        assert_no_leaks(moto_s3, home, done.stdout, done.stderr)


#: What servers have been seen to say, and worse.
ANSWERS = {
    "quoted": lambda: f"the token {TOKEN} of {KEY_ID} with {SECRET} is not valid",
    "escaped": lambda: f"the token {json.dumps(TOKEN)} of {KEY_ID!r} with {SECRET!r} is not valid",
    "in a URL": lambda: f"see https://{KEY_ID}:{quote(SECRET, safe='')}@host/x?X-Amz-Security-Token={quote(TOKEN)}&b=c",
}


#: Each source, form and answer; all of them together with the long tests.
SOME = {("environment", "text", "quoted"), ("environment", "json", "in a URL"), ("profile", "json", "escaped")}


@pytest.mark.parametrize(
    ("secrets", "form", "answer"),
    [
        pytest.param(*case, marks=() if case in SOME else pytest.mark.slow)
        for case in product(("environment", "profile"), ("text", "json"), ANSWERS)
    ],
    indirect=["secrets"],
)
def test_errors_say_none(
    moto_s3: Bucket,
    models: list[Path],
    secrets: None,
    run: Run,
    world: Path,
    answer: str,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that repeats in its refusals what it was sent."""
    recipe = write_recipe(world / "recipe.yaml", models)
    message = ANSWERS[answer]().replace("&", "&amp;").replace("<", "&lt;")
    with Gateway(moto_s3.server.endpoint, lambda method, path: (403, "AccessDenied", message)) as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.endpoint)
        forget_clients()
        ended = run("merge", recipe, f"{moto_s3.url}/out", "--log-format", form)
        assert (ended.code, ended.out) == (ExitCode.STORAGE, "")
        assert "AccessDenied" in ended.err
        assert_no_leaks(None, world, ended.err)
        for command_ in (("status",), ("verify",), ("clean", "--yes"), ("doctor", recipe)):
            ended = run(*command_, f"{moto_s3.url}/out")
            assert ended.code == ExitCode.STORAGE
            assert_no_leaks(None, world, ended.out, ended.err)
        with pytest.raises(SvcDistError) as error:
            svc_dist.merge(recipe, f"{moto_s3.url}/out")
        for one in behind(error.value):
            assert leaks(repr(one) + str(one) + str(one.args)) == []


@pytest.mark.parametrize("token", [f"{TOKEN}\n{TOKEN}", f"{TOKEN}\N{SNOWMAN}\N{SNOWMAN}"], ids=["newline", "snowman"])
def test_a_token_that_cannot_be_sent_is_not_said(
    moto_s3: Bucket, models: list[Path], run: Run, world: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    monkeypatch.setattr("svc_dist.cli.options.access_of", with_deadline(0))
    forget_clients()
    recipe = write_recipe(world / "recipe.yaml", models)
    ended = run("merge", recipe, f"{moto_s3.url}/out")
    assert leaks(ended.err + ended.out) == []
    assert ended.code in (ExitCode.STORAGE, ExitCode.DONE), ended.err


def with_deadline(seconds: float) -> Callable[..., object]:
    from svc_dist.storage.access import Access

    return lambda *rest, **limits: Access(deadline=seconds)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (f"s3://b/: {{client: {{key: '{KEY_ID}'}}}}", 6),
        (f"s3://b/: {{client: {{client_kwargs: {{aws_secret_access_key: '{KEY_ID}'}}}}}}", 6),
        (f"s3://b/: {{client: {{client_kwargs: {{aws_session_token: '{KEY_ID}'}}}}}}", 6),
        (f"s3://b/: {{client: {{proxy: 'http://me:{KEY_ID}@host'}}}}", 6),
        (f"s3://b/: {{client: {{nested: [{{endpoint_url: 'https://host/?token={KEY_ID}'}}]}}}}", 6),
        (f"s3://b/: {{endpoint_url: 'https://me:{KEY_ID}@host'}}", 6),
        (f"s3://b/: {{endpoint_url: 'https://host/?X-Amz-Signature={KEY_ID}'}}", 6),
        (f"s3://me:{KEY_ID}@b/: {{region: x}}", 6),
        (f"s3://b/: {{token: '{KEY_ID}'}}", 6),
    ],
)
def test_a_recipe_with_a_credential_in_storage_is_refused(run: Run, world: Path, options: str, line: int) -> None:
    recipe = world / "recipe.yaml"
    recipe.write_text(
        f"base_model: base\nmerge_method: linear\nmodels:\n- model: expert\nstorage:\n  {options}\n", encoding="utf-8"
    )
    ended = run("merge", recipe, world / "out")
    assert ended.code == ExitCode.USAGE
    assert f"recipe.yaml:{line} (storage" in ended.err
    assert leaks(ended.err) == []


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{KEY_ID}:{quote(SECRET, safe='')}@bucket/model",
        f"s3://me:{KEY_ID}@bucket/model",
        f"s3://{KEY_ID}@bucket/model",
        f"https://host/model?X-Amz-Security-Token={quote(TOKEN)}",
        f"https://me:{KEY_ID}@host/model",
    ],
)
def test_a_url_with_a_credential_is_refused(run: Run, world: Path, url: str) -> None:
    good = write_recipe(world / "recipe.yaml", ["base", "expert"])
    bad = write_recipe(world / "bad.yaml", [url, "expert"])
    for arguments in (
        ("merge", bad, world / "out"),
        ("plan", bad),
        ("doctor", bad, world / "out"),
        ("merge", good, url),
        ("plan", good, url),
        ("doctor", good, url),
        ("verify", url),
        ("status", url),
        ("clean", url),
    ):
        ended = run(*arguments)
        assert ended.code == ExitCode.USAGE, (arguments, ended.err)
        assert leaks(ended.err + ended.out) == []
    endpoint = url.replace("s3://", "https://")
    ended = run("merge", good, "s3://bucket/out", "--endpoint-url", endpoint)
    assert ended.code == ExitCode.USAGE
    assert leaks(ended.err + ended.out) == []
