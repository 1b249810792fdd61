"""Whether a Ray cluster's head still answers: Ray ends a driver that has lost it with exit code 1, without a message.

The check is by hand: ``ray`` installs no grpcio, its state API needs a dashboard, its health check is private, and a
plain TCP connect succeeds even if the head is stopped, because the kernel accepts.
"""

from __future__ import annotations

import socket
import time

from svc_dist.errors import ClusterLostError

_MAX_SILENCE = 30.0  # seconds; Ray ends the process after 60
_TIMEOUT = 2.0
#: The start of an HTTP/2 connection, which a gRPC server answers immediately, without authentication.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


class HeadWatch:
    """Checks whether the head at ``address`` (HOST:PORT) answers. After ``max_silence`` seconds it counts as lost."""

    def __init__(self, address: str, max_silence: float = _MAX_SILENCE) -> None:
        self._address, self._max_silence = address, max_silence
        self._checked = time.monotonic()
        self._silence = 0.0

    @property
    def lost(self) -> bool:
        """Whether the head is lost, as of the last check."""
        return self._silence >= self._max_silence

    def check(self) -> bool:
        """Ask the head now. Returns whether it answers. Raises ClusterLostError when it is lost."""
        before, self._checked = self._checked, time.monotonic()
        # After a longer time this process itself was delayed, which says nothing about the head.
        silence = self._silence + min(self._checked - before, 2 * _TIMEOUT)
        self._silence = 0.0 if answers(self._address) else silence
        if self.lost:
            raise ClusterLostError(
                f"the head of the Ray cluster at {self._address} has not answered for {self._max_silence:.0f} s",
                "run the same command again when a cluster is available: it resumes after the last receipt",
            )
        return self._silence == 0.0


def answers(address: str, timeout: float = _TIMEOUT) -> bool:
    """Whether a live gRPC server listens at HOST:PORT. For a stopped one the kernel accepts, but nothing answers."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout) as connection:
            connection.sendall(GREETING)
            connection.recv(1)
    except ConnectionResetError:
        return True  # it wants TLS
    except OSError:
        return False
    return True
