"""A proxy between an S3 client and a server that misbehaves in a chosen share of the requests.

It passes every byte on unchanged. A client signs for the proxy's address, which it sends as ``Host``, and the server
checks the signature against that header: so nothing needs to be signed again. HTTP/1.1 is understood just enough to
know where a message ends: Content-Length, chunked bodies (the aws-chunked coding is inside, and no business of the
proxy's), ``100 Continue``. A connection of the client has one of its own to the server, and each ends with the other.
While the server is down, a client's connection is reset.

    with FaultProxy(server.endpoint, [Fault(Kind.RESET, share=0.05)], seed=1) as proxy:
        ...  # a client of proxy.endpoint
        proxy.count("PUT", "partNumber="), proxy.injected()
"""

from __future__ import annotations

import random
import re
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

HOST = "127.0.0.1"
CHUNK = 1 << 16
END_OF_HEAD = b"\r\n\r\n"


class Kind(StrEnum):
    """What can go wrong.

    RESET, TRUNCATE and STALL strike in the middle of the response's body, or before the response where it has no body:
    the server has done what it was asked, and the client does not learn it.
    """

    NONE = ""
    LATENCY = "latency"  # the request is passed on ``seconds`` later
    INTERNAL_ERROR = "500"  # answered by the proxy; the server never sees the request
    SLOW_DOWN = "503"  # the same
    SILENCE = "silence"  # no 100 Continue for ``seconds``, or until the client sends its body without
    RESET = "reset"
    TRUNCATE = "truncate"  # closed in good order, but early
    STALL = "stall"  # nothing more for ``seconds``, or until the client gives up; then closed
    WRONG_ETAG = "wrong etag"  # in the response's header; ETags in XML stay right
    DUPLICATE = "duplicate"  # the server gets the request twice, the client the second answer


ERRORS = {
    Kind.INTERNAL_ERROR: ("500 Internal Server Error", "InternalError"),
    Kind.SLOW_DOWN: ("503 Slow Down", "SlowDown"),
}
CUTS = (Kind.RESET, Kind.TRUNCATE, Kind.STALL)


@dataclass
class Request:
    """A request that came in; ``status`` is there once the head of its answer is."""

    method: str
    path: str
    query: str
    range: str | None
    expects_continue: bool
    status: int | None = None
    fault: Kind = Kind.NONE


def is_part(request: Request) -> bool:
    """Whether it sends a part of a multipart upload."""
    return request.method == "PUT" and "partNumber=" in request.query


@dataclass(eq=False)
class Fault:
    """Which requests go wrong, and how."""

    kind: Kind
    #: The share of the requests that ``match``.
    share: float = 1.0
    match: Callable[[Request], bool] = lambda request: True
    #: How many such requests in a row, once one is struck.
    burst: int = 1
    #: At most this many altogether.
    times: int | None = None
    seconds: float = 0.2
    _burst_left: int = field(default=0, init=False)

    def strikes(self, request: Request, draw: Callable[[], float]) -> bool:
        if self.times == 0 or not self.match(request) or (self.kind is Kind.SILENCE and not request.expects_continue):
            return False
        if not self._burst_left and draw() < self.share:
            self._burst_left = self.burst
        if not self._burst_left:
            return False
        self._burst_left -= 1
        if self.times is not None:
            self.times -= 1
        return True


NO_FAULT = Fault(Kind.NONE)


class Head:
    """The first line and the headers of a request or a response."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        first, *lines = raw.decode("latin-1").split("\r\n")
        self.words = first.split(" ", 2)
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def status(self) -> int:
        return int(self.words[1])

    @property
    def interim(self) -> bool:
        return self.status < 200

    @property
    def closes(self) -> bool:
        return "HTTP/1.0" in self.words or self.headers.get("connection", "").lower() == "close"

    def request(self) -> Request:
        path, _, query = self.words[1].partition("?")
        continues = self.headers.get("expect", "").lower() == "100-continue"
        return Request(self.words[0], path, query, self.headers.get("range"), continues)


class AnsweredError(Exception):
    """The server answered before it had the whole request."""

    def __init__(self, head: Head) -> None:
        super().__init__(head.raw)
        self.head = head


class Stream:
    """A socket, and what was received from it and not yet taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        #: Called before it waits for more.
        self.before_waiting: Callable[[], None] = lambda: None

    def fill(self) -> None:
        self.before_waiting()
        data = self.sock.recv(CHUNK)
        if not data:
            raise EOFError
        self.buffer += data

    def take(self, most: int) -> bytes:
        if not self.buffer:
            self.fill()
        taken, self.buffer = self.buffer[:most], self.buffer[most:]
        return taken

    def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self.fill()
        return self.take(self.buffer.index(mark) + len(mark))

    def head(self) -> Head:
        return Head(self.until(END_OF_HEAD))

    def body(self, headers: dict[str, str], until_closed: bool = False) -> Iterator[bytes]:
        """The bytes of a body as they come, with the framing of chunks."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            size = 1
            while size:
                line = self.until(b"\r\n")
                size = int(line.split(b";")[0], 16)
                yield line
                yield from self._exactly(size + 2 if size else 0)
            while line != b"\r\n":  # trailers
                line = self.until(b"\r\n")
                yield line
        elif "content-length" in headers:
            yield from self._exactly(int(headers["content-length"]))
        elif until_closed:
            with suppress(EOFError):
                while True:
                    yield self.take(CHUNK)

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            data = self.take(count)
            count -= len(data)
            yield data


def readable(*socks: socket.socket, seconds: float | None = None) -> list[socket.socket]:
    """Those that have something to read, or have ended; it waits for the first."""
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLIN)
    ready = {number for number, _ in poll.poll(None if seconds is None else seconds * 1000)}
    return [sock for sock in socks if sock.fileno() in ready]


def wrong_etag(head: bytes) -> bytes:
    """The head of a response with another first digit in its ETag."""
    return re.sub(rb'(?i)(\r\netag: *"?)(.)', lambda found: found[1] + (b"1" if found[2] == b"0" else b"0"), head)


def reset(sock: socket.socket) -> None:
    """Close it with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class FaultProxy:
    """Listens on ``endpoint`` from ``start`` to ``stop``; ``faults`` may be replaced at any time."""

    def __init__(self, server: str, faults: Iterable[Fault] = (), seed: int = 0) -> None:
        parts = urlsplit(server)
        assert parts.scheme == "http"
        assert parts.hostname
        self.server = (parts.hostname, parts.port or 80)
        self.faults = list(faults)
        self.random = random.Random(seed)
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0), backlog=256)
        self.endpoint = f"http://{HOST}:{self._listener.getsockname()[1]}"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they came."""
        with self._lock:
            return list(self._requests)

    def count(self, method: str, query: str = "") -> int:
        """How many requests of a method, with something in their query, came through."""
        return sum(request.method == method and query in request.query for request in self.requests)

    def injected(self) -> Counter[Kind]:
        """How many faults of each kind were injected."""
        return Counter(request.fault for request in self.requests if request.fault)

    def forget(self) -> None:
        """Count from zero."""
        with self._lock:
            self._requests.clear()

    def start(self) -> Self:
        self._spawn(self._listen)
        return self

    def stop(self) -> None:
        """Close every connection, whatever it is doing."""
        self.stopping.set()
        with self._lock:
            socks = [self._listener, *self._open]
        for sock in socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()  # the listener: no connection begins after this
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a connection of the proxy does not end"
        self._listener.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="fault-proxy", daemon=True)
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        thread.start()

    def _listen(self) -> None:
        while not self.stopping.is_set():
            with suppress(OSError):
                sock, _ = self._listener.accept()
                self._spawn(partial(self._serve, sock))

    def _serve(self, sock: socket.socket) -> None:
        """One connection of a client, to its end."""
        with ExitStack() as closing:
            try:
                client = Stream(self._opened(sock, closing))
                server = self._connect(client, closing)
                while not self.stopping.is_set() and server.sock not in readable(client.sock, server.sock):
                    if (next_server := self._exchange(client, server, closing)) is None:
                        break
                    server = next_server
            except EOFError:
                pass
            except OSError:  # the server is not there, or either end broke off
                with suppress(OSError):
                    reset(sock)

    def _connect(self, client: Stream, closing: ExitStack) -> Stream:
        sock = socket.create_connection(self.server, timeout=10)
        sock.settimeout(None)
        server = Stream(self._opened(sock, closing))

        def look() -> None:
            if sock not in readable(client.sock, sock) and not client.sock.recv(1, socket.MSG_PEEK):
                raise EOFError  # the client has given up

        server.before_waiting = look
        return server

    def _opened(self, sock: socket.socket, closing: ExitStack) -> socket.socket:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        closing.enter_context(sock)
        with self._lock:
            self._open.add(sock)
        closing.callback(self._forget_socket, sock)
        if self.stopping.is_set():
            raise EOFError
        return sock

    def _forget_socket(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.discard(sock)

    def _exchange(self, client: Stream, server: Stream, closing: ExitStack) -> Stream | None:
        """One request and its answer; the connection to the server for the next one, if there can be one."""
        head = client.head()
        request, fault = self._arrived(head)
        if fault.kind is Kind.LATENCY:
            self.stopping.wait(fault.seconds)
        elif fault.kind is Kind.SILENCE:
            readable(client.sock, seconds=fault.seconds)
        elif fault.kind in ERRORS:
            self._refuse(client, head, request, fault.kind)
            return None if head.closes else server

        sent: list[bytes] = []
        early = False
        try:
            answer = self._send(client, server, head, sent.append if fault.kind is Kind.DUPLICATE else None)
        except AnsweredError as error:
            answer, early = error.head, True
        if fault.kind is Kind.DUPLICATE and early:
            request.fault = Kind.NONE  # there is nothing whole to send again
        elif fault.kind is Kind.DUPLICATE:
            for _ in self._body(server, request, answer):
                pass
            server = self._connect(client, closing)
            server.sock.sendall(b"".join([head.raw, *sent]))
            while (answer := server.head()).interim:
                pass

        request.status = answer.status
        raw = answer.raw
        if fault.kind is Kind.WRONG_ETAG and (raw := wrong_etag(raw)) == answer.raw:
            request.fault = Kind.NONE  # it has none
        pieces = chain([raw], self._body(server, request, answer))
        if fault.kind in CUTS:
            self._answer(client, pieces, self._middle(request, answer))
            self._break_off(client, fault)
            return None
        self._answer(client, pieces)
        if early:
            self._linger(client)
        return None if early or head.closes or answer.closes else server

    def _arrived(self, head: Head) -> tuple[Request, Fault]:
        request = head.request()
        with self._lock:
            self._requests.append(request)
            fault = next((fault for fault in self.faults if fault.strikes(request, self.random.random)), NO_FAULT)
        request.fault = fault.kind
        return request, fault

    def _refuse(self, client: Stream, head: Head, request: Request, kind: Kind) -> None:
        """Answer with an error in the server's place, after the whole request."""
        if request.expects_continue:
            client.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        for _ in client.body(head.headers):
            pass
        status, code = ERRORS[kind]
        request.status = int(status[:3])
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>Injected.</Message></Error>'
        if request.method == "HEAD":
            body = ""
        client.sock.sendall(
            f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )

    def _send(self, client: Stream, server: Stream, head: Head, keep: Callable[[bytes], None] | None) -> Head:
        """Pass a request on, and in the meantime interim answers back; the head of the answer."""

        def look() -> None:
            while server.sock in readable(client.sock, server.sock):
                answer = server.head()
                if not answer.interim:
                    raise AnsweredError(answer)
                client.sock.sendall(answer.raw)

        client.before_waiting = look
        try:
            for piece in chain([head.raw], client.body(head.headers)):
                try:
                    server.sock.sendall(piece)
                except ConnectionError:  # it has closed, perhaps after an answer
                    raise AnsweredError(server.head()) from None
                if keep and piece is not head.raw:
                    keep(piece)
        finally:
            client.before_waiting = lambda: None
        while (answer := server.head()).interim:
            client.sock.sendall(answer.raw)
        return answer

    def _body(self, server: Stream, request: Request, answer: Head) -> Iterator[bytes]:
        if request.method == "HEAD" or answer.status in (204, 304):
            return iter(())
        return server.body(answer.headers, until_closed=True)

    def _middle(self, request: Request, answer: Head) -> int:
        """Where to cut a response: half-way through its body (after a few bytes if chunked), or at its start."""
        length = int(answer.headers.get("content-length", "8"))
        if request.method == "HEAD" or answer.status in (204, 304) or not length:
            return 0
        return len(answer.raw) + length // 2

    def _answer(self, client: Stream, pieces: Iterable[bytes], limit: int | None = None) -> None:
        for piece in pieces:
            client.sock.sendall(piece[:limit])
            if limit is not None and (limit := max(0, limit - len(piece))) == 0:
                break

    def _linger(self, client: Stream) -> None:
        """Give the client time to see an answer before it is done sending: closing at once would reset it."""
        client.sock.shutdown(socket.SHUT_WR)
        while readable(client.sock, seconds=1) and client.sock.recv(CHUNK):
            pass

    def _break_off(self, client: Stream, fault: Fault) -> None:
        if fault.kind is Kind.RESET:
            time.sleep(0.05)  # a reset would overtake what is under way
            reset(client.sock)
        elif fault.kind is Kind.STALL:
            readable(client.sock, seconds=fault.seconds)
