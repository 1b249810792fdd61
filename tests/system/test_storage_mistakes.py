"""Mistakes on object storage and on a hub: each message has a code, the place, cause and cure, within seconds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from svc_dist.recipe.writing.explanations import explanations
from svc_dist.storage.access import Access
from svc_dist.storage.s3.client import forget_clients
from tests.support.checkpoints import write_llamas
from tests.support.command import Run
from tests.support.gateway import Gateway, Refusal
from tests.support.hub import Hub
from tests.support.s3_servers import HOST, Moto, client, free_ports

BUCKET = "mistakes"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 100\n"
RECIPE = """\
base_model: {base}
models:
  - model: {first}
    parameters: {{weight: 0.4}}
  - model: {second}
    parameters: {{weight: 0.4}}
merge_method: task_arithmetic
"""


@dataclass(frozen=True)
class World:
    """Sound models in a folder, in a bucket and on a hub, and models that are not."""

    folder: Path
    moto: Moto
    hub: Hub

    def recipe(self, second: str, local: bool = False) -> Path:
        """A recipe whose second expert, named in line 5, is this one."""
        base, first = (str(self.folder / name) if local else f"s3://{BUCKET}/{name}" for name in ("base", "expert0"))
        file = self.folder / "recipe.yaml"
        hub = f"storage: {{hf://: {{endpoint_url: '{self.hub.endpoint}'}}}}\n"
        file.write_text(RECIPE.format(base=base, first=first, second=second) + hub)
        return file


@pytest.fixture(scope="module")
def world(moto: Moto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    s3 = client(moto.environment)
    s3.create_bucket(Bucket=BUCKET)
    for model in write_llamas(folder):
        for file in model.iterdir():
            s3.put_object(Bucket=BUCKET, Key=f"{model.name}/{file.name}", Body=file.read_bytes())
    for file in (folder / "expert1").iterdir():
        data = file.read_bytes()
        s3.put_object(Bucket=BUCKET, Key=f"lfs/{file.name}", Body=LFS if "model-00001" in file.name else data)
        if file.suffix != ".safetensors":
            s3.put_object(Bucket=BUCKET, Key=f"no_shards/{file.name}", Body=data)
    s3.put_object(Bucket=BUCKET, Key="notes/readme.txt", Body=b"nothing to merge")
    with Hub() as hub:
        for name in ("acme/public", "acme/private", "acme/gated"):
            hub.commit(name, folder / "expert1")
        hub.private.add("acme/private")
        hub.gated.add("acme/gated")
        yield World(folder, moto, hub)
    moto.remove_bucket(BUCKET)


@pytest.fixture(autouse=True)
def _surroundings(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The credentials and addresses of the world, and none of other tests."""
    forget_clients()
    for name, value in world.moto.environment.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("HF_TOKEN")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the tests' own switch
    monkeypatch.setattr("svc_dist.storage.hub.repository._TRIED", 0.5)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield
    forget_clients()


def mistaken(run: Run, *command: str | Path, exit_code: int = 4, code: str = "storage-failed") -> str:
    """What a command says that ends with this exit code: it says what to do, and names a code that is explained."""
    ended = run(*command)
    assert ended.code == exit_code, ended.err
    assert "Traceback" not in ended.err
    message, _, explain = ended.err.rpartition("\n  explain: svc-dist recipe explain ")
    assert explain.strip() == code
    assert code in explanations()
    assert "\n  " in message, "what to do stands below what is wrong"
    return message


#: By the mistake: the second expert, the exit code, the code, and what the message must say.
MODELS: dict[str, tuple[str, int, str, tuple[str, ...]]] = {
    "a bucket that does not exist": (
        "s3://mistaken/expert1",
        4,
        "storage-failed",
        ("recipe.yaml:5", "s3://mistaken/expert1", "NoSuchBucket", "check the bucket's name and the endpoint"),
    ),
    "a prefix without files": (
        f"s3://{BUCKET}/expertl",
        4,
        "no-such-model",
        ("recipe.yaml:5", f"s3://{BUCKET}/expertl", "nothing is there", "check the path or URL"),
    ),
    "a prefix of something else": (
        f"s3://{BUCKET}/notes",
        3,
        "input-damaged",
        (f"s3://{BUCKET}/notes: no safetensors file", "check the path or URL"),
    ),
    "shards that were not copied": (
        f"s3://{BUCKET}/no_shards",
        3,
        "input-damaged",
        (f"s3://{BUCKET}/no_shards", "model-00001", "hf download", "copy it to s3:// again"),
    ),
    "an LFS pointer that was copied": (
        f"s3://{BUCKET}/lfs",
        3,
        "input-damaged",
        (f"s3://{BUCKET}/lfs/model-00001", "Git LFS pointer", "git lfs pull", "copy it to s3:// again"),
    ),
    "a repository that does not exist": (
        "hf://acme/nobody",
        4,
        "storage-failed",
        ("recipe.yaml:5", "hf://acme/nobody", "repository not found", "check owner, name and revision", "HF_TOKEN"),
    ),
    "a private repository without a token": (
        "hf://acme/private",
        4,
        "storage-failed",
        ("recipe.yaml:5", "hf://acme/private", "needs HF_TOKEN, or `hf auth login`"),
    ),
    "a gated repository": (
        "hf://acme/gated",
        4,
        "storage-failed",
        ("recipe.yaml:5", "acme/gated", "403", "ask for access on the repository's page"),
    ),
    "a revision that does not exist": (
        "hf://acme/public@v9",
        4,
        "storage-failed",
        ("recipe.yaml:5", "hf://acme/public@v9", "revision not found", "check owner, name and revision"),
    ),
    "a name without an owner": (
        "hf://llama",
        4,
        "storage-failed",
        ("recipe.yaml:5", "hf://llama", "write it like hf://owner/name@revision"),
    ),
}


@pytest.mark.parametrize("mistake", MODELS)
def test_a_model_that_is_not_there(mistake: str, world: World, run: Run) -> None:
    model, exit_code, code, says = MODELS[mistake]
    recipe = world.recipe(model, local=model.startswith("hf"))
    said = mistaken(run, "plan", recipe, exit_code=exit_code, code=code)
    for part in says:
        assert part in said


def test_a_token_that_may_not_read_is_named(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ofSomebodyElse")
    said = mistaken(run, "plan", world.recipe("hf://acme/private", local=True))
    assert "check that the token (HF_TOKEN, `hf auth login`) may read it" in said
    assert "hf_ofSomebodyElse" not in said


def test_the_doctor_says_of_a_hub_what_a_merge_would(world: World, run: Run) -> None:
    for model, wrong in (("acme/public", ""), ("acme/gated", "ask for access"), ("acme/nobody", "HF_TOKEN")):
        ended = run("doctor", world.recipe(f"hf://{model}", local=True), "merged")
        assert ended.code == (4 if wrong else 0)
        (line,) = [line for line in ended.out.splitlines() if f"input hf://{model}" in line]
        assert line.startswith("WRONG" if wrong else "ok")
        assert wrong in line
    said = mistaken(run, "doctor", world.recipe("s"), "hf://acme/new", exit_code=2, code="hub-output-refused")
    assert "add --staging FOLDER" in said


#: By the mistake: what the store answers to everything, and what the message must say.
REFUSALS: dict[str, tuple[int, str, str]] = {
    "expired credentials": (400, "ExpiredToken", "renew the credentials"),
    "wrong access key": (403, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
    "wrong secret key": (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY is not the secret of the access key"),
    "no right to read": (403, "AccessDenied", "docs/storage.md lists the rights"),
    "another region": (400, "AuthorizationHeaderMalformed", "set AWS_DEFAULT_REGION, or `region`"),
    "a redirect to another region": (301, "PermanentRedirect", "set AWS_DEFAULT_REGION, or `region`"),
    "a clock that is wrong": (403, "RequestTimeTooSkewed", "set this machine's clock"),
}


@pytest.mark.parametrize("mistake", REFUSALS)
def test_a_store_that_refuses(mistake: str, world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, reason, cure = REFUSALS[mistake]
    with Gateway(world.moto.endpoint, lambda method, path: (status, reason, "no")) as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.endpoint)
        said = mistaken(run, "plan", world.recipe(f"s3://{BUCKET}/expert1"))
    assert f"recipe.yaml:1 (base_model): cannot list the prefix in s3://{BUCKET}/base" in said
    assert reason in said
    assert cure in said
    if status != 301:  # botocore follows redirects
        assert len(gateway.requests) <= 6, "a refusal is not tried again"


def test_an_output_that_may_not_be_written(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse: Refusal = lambda method, path: (403, "AccessDenied", "no") if method in ("PUT", "POST") else None  # noqa: E731
    with Gateway(world.moto.endpoint, refuse) as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.endpoint)
        recipe = world.recipe(f"s3://{BUCKET}/expert1")
        said = mistaken(run, "merge", recipe, f"s3://{BUCKET}/merged", "--executor", "inline")
        ended = run("doctor", recipe, f"s3://{BUCKET}/merged")
    assert f"cannot write .svc_dist/lock in s3://{BUCKET}/merged" in said
    assert "docs/storage.md lists the rights" in said
    assert ended.code == 4
    assert "WRONG  writing: cannot write" in ended.out


def test_an_output_in_a_bucket_that_does_not_exist(world: World, run: Run) -> None:
    said = mistaken(run, "merge", world.recipe(f"s3://{BUCKET}/expert1"), "s3://mistaken/m", "--executor", "inline")
    assert "in s3://mistaken/m" in said
    assert "NoSuchBucket" in said
    assert "check the bucket's name" in said


# --- the address of a store


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds that a command waits for a store that has never answered, for these tests."""
    monkeypatch.setattr(Access, "__init__", _with_patience(Access.__init__, 0.5))
    return 0.5


def _with_patience(init: Any, seconds: float) -> Any:
    def patient(self: Access, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **{"patience": seconds, **options})

    return patient


@pytest.mark.parametrize("command", ["plan", "merge"])
def test_a_wrong_address_is_not_waited_for_as_an_outage_is(
    command: str, world: World, run: Run, impatient: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{port}")
    rest = [f"s3://{BUCKET}/merged", "--executor", "inline"] if command == "merge" else []
    said = mistaken(run, command, world.recipe(f"s3://{BUCKET}/expert1"), *rest)
    assert f"http://{HOST}:{port}" in said
    assert "failed after" in said
    assert "check the endpoint and the network (AWS_ENDPOINT_URL, --endpoint-url, or `endpoint_url`" in said


@pytest.mark.parametrize(
    ("status", "page"), [(404, b"<html><body>Not Found</body></html>"), (200, b"<!doctype html><p>Sign in")]
)
def test_a_console_in_place_of_a_store(
    status: int, page: bytes, world: World, run: Run, impatient: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Console(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer((HOST, 0), Console)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{server.server_address[1]}")
    said = mistaken(run, "plan", world.recipe(f"s3://{BUCKET}/expert1"))
    server.shutdown()
    server.server_close()
    assert "S3 storage answers" in said
    assert "endpoint" in said
