"""HTTP requests to a server of the user's, whose URL may hold a secret: no message or log repeats it."""

from __future__ import annotations

import base64
import http.client
import random
import time
import urllib.error
import urllib.request
from urllib.parse import unquote, urlsplit, urlunsplit

from svc_dist.errors import RecipeError, StorageError, TransientStorageError
from svc_dist.storage.secrets import learn

_TIMEOUT = 10.0  # seconds of one request
_PAUSE = 1.0  # seconds before the second attempt, then twice as long each time
_SHORT = 15
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class Target:
    """Where to send requests. ``name``: what messages call it, without credentials, path and query.

    Raises RecipeError, without repeating the URL, where it is none of http or https.
    """

    def __init__(self, url: str, option: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host or any(letter.isspace() for letter in url):
            raise RecipeError(f"{option} takes a URL that begins with https:// or http://", code="arguments-refused")
        address = f"[{host}]" if ":" in host else host
        address += "" if port is None else f":{port}"
        self.name = f"{parts.scheme}://{address}"
        self.url = urlunsplit((parts.scheme, address, parts.path, parts.query, ""))
        self.headers: dict[str, str] = {}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        path = parts.path if len(parts.path) > _SHORT else None  # a short one, such as /metrics, is no secret
        learn(filter(None, (url, self.url, path, parts.query, parts.password, parts.username)))

    def below(self, path: str) -> str:
        """The URL of a path below this one, before its query."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{path}", parts.query, ""))

    def post(self, data: bytes, kind: str, deadline: float, path: str = "") -> None:
        """Send data; transient failures are retried with growing pauses until ``deadline`` seconds have passed.

        Raises StorageError.
        """
        url = self.below(path) if path else self.url
        request = urllib.request.Request(url, data, {"Content-Type": kind, **self.headers}, method="POST")
        timeout = max(min(_TIMEOUT, deadline), 0.1)
        began, pause = time.monotonic(), _PAUSE
        while True:
            try:
                return self._send(request, timeout)
            except TransientStorageError as error:
                spent = time.monotonic() - began
                if spent + pause > deadline:
                    raise StorageError(f"{error.message} (for {spent:.0f} s)") from None
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause *= 2

    def _send(self, request: urllib.request.Request, timeout: float) -> None:
        error: StorageError
        try:
            with _OPENER.open(request, timeout=timeout):
                return
        except urllib.error.HTTPError as failed:
            failed.close()
            kind = TransientStorageError if failed.code in _TRY_AGAIN else StorageError
            error = kind(f"{self.name} answers {failed.code}")
        except (OSError, ValueError, http.client.HTTPException) as failed:  # ValueError: characters that no URL has
            reason = failed.reason if isinstance(failed, urllib.error.URLError) else failed
            detail = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
            error = TransientStorageError(f"{self.name} cannot be reached: {detail}")
        raise error  # outside the handlers: its context would quote the URL


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected request would arrive as a GET without its data, and maybe elsewhere with its credentials."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)
