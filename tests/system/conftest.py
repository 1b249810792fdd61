"""The command in this process, and S3 servers, started by the first test that asks for them."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from svc_dist.checkpoint import layout
from svc_dist.cli import process as cli
from svc_dist.storage.s3.client import forget_clients
from tests.support.checkpoints import write_llamas
from tests.support.command import Ended, Run, environment, short_home
from tests.support.s3_merge import MAX_RANGE, Models, models_in
from tests.support.s3_servers import Bucket, Moto, SeaweedFS, Server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command's own entry point, in this process: what the installed script calls."""
    monkeypatch.setattr(cli, "_end", lambda code, hard: sys.exit(code))  # else it may end this process, past all else

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["svc-dist", *map(str, arguments)])
        monkeypatch.setattr(os, "_exit", sys.exit)  # a command that leaves at once must not take the tests along
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small base and its experts, which no test changes; modules with other needs have their own."""
    return write_llamas(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def ray_home() -> Iterator[Path]:
    with short_home() as home:
        yield home


@pytest.fixture
def at_ray_home(ray_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Ray that this process starts leaves behind lies in a home of its own."""
    for name, value in environment(ray_home).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def disk_models(seaweed: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with models_in(seaweed, tmp_path_factory.mktemp("models")) as models:
        yield models


@pytest.fixture
def many_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges so small that one tensor of ``disk_models`` is several units."""
    monkeypatch.setattr(layout, "MAX_RANGE", MAX_RANGE)


@pytest.fixture(params=["moto", "seaweed"])
def s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket of the test's own, on each server; clients that are told nothing find the server."""
    yield from own_bucket(request.getfixturevalue(request.param), monkeypatch)


@pytest.fixture
def disk_s3(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket of the test's own on SeaweedFS only."""
    yield from own_bucket(seaweed, monkeypatch)


def own_bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    forget_clients()  # it does not see that the environment is another
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("svc_dist.run_folder.lock._SETTLE", 0.05)  # it is for stores without conditional writes
    bucket = Bucket(server, f"test-{uuid.uuid4().hex[:12]}")
    server.make_bucket(bucket.name)
    yield bucket
    if server.process is None:  # killed by the test
        server.start()
    server.remove_bucket(bucket.name)
