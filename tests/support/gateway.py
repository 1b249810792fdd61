"""A server between an S3 client and a store: passes requests on, or answers them with an error of S3; keeps a list.

A client signs for the gateway's address, which it sends as ``Host``, and that is passed on: signatures hold.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.s3_servers import HOST

#: From method and path (with the query) to HTTP status, code and message of a refusal, or None.
Refusal = Callable[[str, str], tuple[int, str, str] | None]


class Gateway:
    """Listens while it is entered. ``requests``: method and path of all that came in, ``refused``: of those refused.

    ``headers_seen`` is called with each request's headers.
    """

    def __init__(self, endpoint: str, refuse: Refusal = lambda method, path: None) -> None:
        self.server = endpoint.removeprefix("http://")
        self.refuse = refuse
        self.headers_seen: Callable[[Message], None] = lambda headers: None
        self.requests: list[str] = []
        self.refused: list[str] = []
        self._lock = threading.Lock()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def pass_on(self) -> None:
                gateway.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

            def log_message(self, *arguments: Any) -> None: ...

        self._listening = ThreadingHTTPServer((HOST, 0), Handler)
        self._listening.daemon_threads = True
        self.endpoint = f"http://{HOST}:{self._listening.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        line = f"{request.command} {request.path}"
        with self._lock:
            self.requests.append(line)
            self.headers_seen(request.headers)
            refusal = self.refuse(request.command, request.path)
            if refusal is not None:
                self.refused.append(line)
        if refusal is not None:
            status, code, message = refusal
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            headers, data = [("Content-Length", str(len(text)))], text
        else:
            connection = http.client.HTTPConnection(self.server, timeout=30)
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            data, status = response.read(), response.status
            headers = [
                pair for pair in response.getheaders()
                if pair[0].lower() not in ("transfer-encoding", "connection", "content-length")
            ]  # fmt: skip
            headers.append(("Content-Length", response.getheader("Content-Length") or str(len(data))))
            connection.close()
        request.send_response_only(status)
        for name, value in headers:
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def __enter__(self) -> Self:
        threading.Thread(target=self._listening.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown()
        self._listening.server_close()
