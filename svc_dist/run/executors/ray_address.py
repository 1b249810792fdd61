"""The address of a Ray cluster, checked before Ray connects: Ray itself asks a head that is not there for many minutes.

No module of Ray is imported, so that a wrong address fails before anything is planned.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
import threading
import time
from pathlib import Path

from svc_dist.errors import RecipeError, StorageError, printable
from svc_dist.run.executors.ray_head import GREETING

PATIENCE = 15.0  # seconds for a head that is just starting
_PAUSE = 0.5
_TIMEOUT = 5.0
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s:/]+):(?P<port>\d{1,5})")
_SETTINGS_FRAME = 4  # the type of the frame by which every HTTP/2 server begins
_TLS_ALERT = 0x15


def require_head(address: str, patience: float = PATIENCE) -> None:
    """Ask the head of a cluster whether it is there. ``address``: HOST:PORT, or ``auto`` for that of this machine.

    Raises RecipeError for an address that cannot be one, and StorageError where no head answers for ``patience``
    seconds.
    """
    where = _found() if address == "auto" else address
    if where is None:
        return  # Ray looks for processes of a cluster on this machine, and says at once where there are none
    host, port = _parsed(where)
    until = time.monotonic() + patience
    reason: str | None = "nothing has answered"
    while reason is not None:
        reason = _asked(host, port, max(until - time.monotonic(), 0.1))
        if reason is not None and time.monotonic() + _PAUSE > until:
            shown = f"{printable(where)} (address auto)" if address == "auto" else printable(where)
            raise StorageError(
                f"no Ray cluster answers at {shown}: {reason}",
                "check --address: it is HOST:PORT of the head as `ray start --head` prints it, usually port 6379; "
                "check that the head runs (`ray status` there) and that no firewall is between",
                code="cluster-unreachable",
            )
        time.sleep(_PAUSE if reason is not None else 0)


def _parsed(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        client = address.startswith("ray://")
        raise RecipeError(
            f"address is {printable(address)!r}, but must be HOST:PORT or auto",
            "ray:// is Ray's client, which svc_dist does not use: give the head's own port, such as "
            f"{printable(address.removeprefix('ray://').rpartition(':')[0])}:6379"
            if client
            else "the port of a head is usually 6379: HOST:6379",
            code="cluster-unreachable",
        )
    return match["host"].strip("[]"), int(match["port"])


def _found() -> str | None:
    """The address that Ray takes for ``auto``: of the environment, or of the cluster last started here."""
    if given := os.environ.get("RAY_ADDRESS"):
        return None if given in ("auto", "local") else given
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"
    try:
        return (folder / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


def _asked(host: str, port: int, within: float) -> str | None:
    """Why no head of Ray answers there; None where one does. A name server that is silent does not delay it."""
    outcome: list[str | None] = []
    thread = threading.Thread(
        target=lambda: outcome.append(_answer(host, port, min(within, _TIMEOUT))), name="ask-ray-head", daemon=True
    )
    thread.start()
    thread.join(within)
    return outcome[0] if outcome else "its name or its host does not answer"


def _answer(host: str, port: int, timeout: float) -> str | None:
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(GREETING)
            connection.settimeout(timeout)
            first = connection.recv(9)
    except ConnectionResetError:
        return None  # it wants TLS
    except TimeoutError:
        return "it accepts or drops connections, but does not answer"
    except OSError as error:
        return printable(error.strerror or str(error))
    if first[:1] == bytes([_TLS_ALERT]) or first[3:4] == bytes([_SETTINGS_FRAME]):
        return None
    return "what answers there is no head of Ray (the dashboard has another port)"
