"""A wrong address of a cluster fails within seconds, before Ray is asked; a head that just starts is waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from svc_dist.errors import ExitCode, RecipeError, StorageError
from svc_dist.run.executors.ray_address import PATIENCE, require_head
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import run

SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # the empty SETTINGS frame of HTTP/2
Serve = Callable[[bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that send these bytes to whoever greets them; nothing: they stay silent."""
    open_ones = []

    def start(answer: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        open_ones.append(server)

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                open_ones.append(connection)
                if answer:
                    connection.recv(100)
                    connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield start
    for one in open_ones:
        one.close()


def unused() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("answer", [SETTINGS, b"\x15\x03\x01\0\x02\x02\x46"], ids=["gRPC", "TLS"])
def test_a_head_that_answers_is_one(serve: Serve, answer: bytes) -> None:
    require_head(serve(answer), 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "no head of Ray .the dashboard"), (b"", "does not answer")],
)
def test_something_else_there_is_told_from_a_head(serve: Serve, answer: bytes, reason: str) -> None:
    address = serve(answer)
    began = time.monotonic()
    with pytest.raises(StorageError, match=f"no Ray cluster answers at {address}: .*{reason}") as refused:
        require_head(address, 0.3)
    assert time.monotonic() - began < 3
    assert refused.value.exit_code == ExitCode.STORAGE
    assert refused.value.code == "cluster-unreachable"
    assert "ray status" in (refused.value.hint or "")


def test_nobody_there_is_named_and_a_name_too() -> None:
    with pytest.raises(StorageError, match="Connection refused"):
        require_head(unused(), 0.2)
    with pytest.raises(StorageError, match=r"no Ray cluster answers at nowhere\.invalid:6379: "):
        require_head("nowhere.invalid:6379", 0.2)


def test_a_head_that_starts_meanwhile_is_waited_for() -> None:
    address = unused()
    servers: list[socket.socket] = []

    def start() -> None:
        time.sleep(0.7)
        server = socket.create_server(("127.0.0.1", int(address.rpartition(":")[2])))
        servers.append(server)
        connection, _ = server.accept()
        connection.recv(100)
        connection.sendall(SETTINGS)
        connection.close()

    threading.Thread(target=start, daemon=True).start()
    require_head(address, 10)
    servers[0].close()


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.1:0", "10.0.0.1:99999", "a b:1", ""])
def test_what_is_no_address_is_a_mistake_in_usage(address: str) -> None:
    with pytest.raises(RecipeError, match=r"must be HOST:PORT or auto"):
        require_head(address, 0.1)


def test_the_address_of_rays_client_is_refused_with_the_right_one() -> None:
    with pytest.raises(RecipeError, match="must be HOST:PORT") as refused:
        require_head("ray://head:10001", 0.1)
    assert "such as head:6379" in (refused.value.hint or "")


def test_auto_is_the_cluster_of_the_environment_or_the_last_one_here(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    require_head("auto", 0.1)  # none: Ray says so itself
    (tmp_path / "ray").mkdir()
    gone = unused()
    (tmp_path / "ray" / "ray_current_cluster").write_text(gone)
    with pytest.raises(StorageError, match=rf"at {gone} \(address auto\)"):
        require_head("auto", 0.1)
    monkeypatch.setenv("RAY_ADDRESS", serve(SETTINGS))
    require_head("auto", 1)


def test_the_command_ends_in_seconds_with_an_exit_code_and_writes_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path / "models"))
    out = tmp_path / "out"
    done = run("merge", recipe, out, "--address", "10.0.0.1", home=tmp_path / "home", expect=ExitCode.USAGE)
    assert "address is '10.0.0.1', but must be HOST:PORT or auto" in done.err
    assert not (tmp_path / "out").exists()
    assert PATIENCE == 15
