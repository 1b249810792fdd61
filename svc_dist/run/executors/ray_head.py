"""Whether a Ray cluster's head still answers: Ray ends a driver that has lost it with exit code 1, and says nothing."""

from __future__ import annotations

import socket
import time

from svc_dist.errors import ClusterLostError

PATIENCE = 30.0  # seconds of silence; Ray ends the process after 60
_TIMEOUT = 2.0
#: The begin of an HTTP/2 connection, which a gRPC server answers at once, whoever asks.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


class HeadWatch:
    """Asks the head at ``address`` (HOST:PORT) whether it is there."""

    def __init__(self, address: str, patience: float = PATIENCE) -> None:
        self._address, self._patience = address, patience
        self._asked = time.monotonic()
        self._silence = 0.0

    @property
    def lost(self) -> bool:
        """Whether it has been silent for ``patience`` seconds."""
        return self._silence >= self._patience

    def check(self) -> bool:
        """Whether it answers. Raises ClusterLostError when it is lost."""
        before, self._asked = self._asked, time.monotonic()
        # A longer time than that is one in which this process was held up itself: it says nothing of the head.
        silence = self._silence + min(self._asked - before, 2 * _TIMEOUT)
        self._silence = 0.0 if answers(self._address) else silence
        if self.lost:
            raise ClusterLostError(
                f"the head of the Ray cluster at {self._address} has not answered for {self._patience:.0f} s",
                "start the same command again once there is a cluster: what has a receipt is not done again",
            )
        return self._silence == 0.0


def answers(address: str, timeout: float = _TIMEOUT) -> bool:
    """Whether a live process listens at HOST:PORT: one that is stopped has a kernel that accepts, but says nothing."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout) as connection:
            connection.sendall(_GREETING)
            connection.recv(1)
    except ConnectionResetError:
        return True  # it wants TLS
    except OSError:
        return False
    return True
