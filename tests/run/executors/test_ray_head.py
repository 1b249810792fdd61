"""A cluster's head that is gone, or stopped, is missed; one that answers is not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from svc_dist.errors import ClusterLostError, ExitCode
from svc_dist.run.executors.ray_head import HeadWatch, answers


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def serve(listener: socket.socket) -> None:
    """Answer whoever asks, until the listener is closed."""

    def run() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(b"\0")
        except OSError:
            return

    threading.Thread(target=run, daemon=True).start()


def test_one_that_answers_is_alive(listener: socket.socket) -> None:
    serve(listener)
    assert answers(address(listener))


def test_one_that_is_stopped_accepts_but_does_not_answer(listener: socket.socket) -> None:
    assert not answers(address(listener), timeout=0.1)


def test_one_that_is_gone_does_not_answer(listener: socket.socket) -> None:
    where = address(listener)
    listener.close()
    assert not answers(where)


def test_a_loss_is_reported_only_after_the_longest_silence(listener: socket.socket) -> None:
    serve(listener)
    watch = HeadWatch(address(listener), max_silence=0.5)
    assert watch.check()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert not watch.check()

    def check() -> None:
        for _ in range(200):
            time.sleep(0.01)
            watch.check()

    with pytest.raises(ClusterLostError, match=r"the head of the Ray cluster at .+ has not answered") as lost:
        check()
    assert lost.value.exit_code == ExitCode.TRY_AGAIN
