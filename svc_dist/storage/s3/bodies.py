"""Bodies of requests and answers: received into memory that is there already, sent in blocks, both against a clock."""

from __future__ import annotations

import io
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any

from svc_dist.errors import TransientStorageError
from svc_dist.storage.landing import Target

_CHUNK = 1 << 18  # bytes of an answer's body that are in memory at the same time
_SLOWEST = 1 << 17  # bytes a second: a request that moves fewer is ended; one that stands still is ended sooner


class Pace:
    """The clock of one request, which moves ``size`` bytes or more and ``began`` by the monotonic clock."""

    def __init__(self, timeout: float, size: int = 0) -> None:
        self._timeout, self._size = timeout, size
        self.began = time.monotonic()

    def check(self, moved: int) -> None:
        """Raise TimeoutError when the request, which has moved so many bytes, takes too long."""
        if time.monotonic() - self.began > self._timeout + max(moved, self._size) / _SLOWEST:
            raise TimeoutError(f"only {moved:,} bytes in {time.monotonic() - self.began:.0f} s")


class PacedBody(io.IOBase):
    """A request's body that is sent in blocks, for as long as they move. Nothing of it is copied.

    A block is larger than HTTP libraries ask for (16 KiB): each one costs a round through Python, under its lock.
    """

    def __init__(self, data: bytes | memoryview, pace: Pace) -> None:
        self._data = memoryview(data)
        self._position = 0
        self._pace = pace

    def read(self, size: int = -1) -> memoryview:
        self._pace.check(self._position)
        end = len(self._data) if size is None or size < 0 else self._position + max(size, _CHUNK)
        block = self._data[self._position : end]
        self._position += len(block)
        return block

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, len(self._data))[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def read_chunks(answer: Mapping[str, Any], pace: Pace) -> Iterator[bytes]:
    """The body of an answer as it arrives. Raises TimeoutError when it arrives too slowly."""
    with answer["Body"] as body:  # urllib3's response, whose read1 returns what has arrived
        read, done = getattr(body, "read1", body.read), 0
        while chunk := read(_CHUNK):
            done += len(chunk)
            pace.check(done)
            yield chunk


def read_body(answer: Mapping[str, Any], pace: Pace) -> bytes:
    """The whole body of an answer. Raises ConnectionError when it is cut off."""
    data = b"".join(read_chunks(answer, pace))
    expected = answer.get("ContentLength", len(data))
    if len(data) != expected:
        raise ConnectionError(f"only {len(data):,} of {expected:,} bytes came")
    return data


def receive_version(answer: Mapping[str, Any], target: Target, pace: Pace, etag: str, failed: str) -> bool:
    """Receive the bytes of a file's version. Raises TransientStorageError, which begins with ``failed``, for others."""
    if answer["ETag"] != etag:  # a store that does not know If-Match, or an answer garbled on the way
        raise TransientStorageError(f"{failed}: the answer's ETag is {answer['ETag']}, not {etag}")
    wanted = target.left
    came = receive(answer, target, pace)
    if came != wanted:
        what = "the answer is too long" if came > wanted else f"only {came:,} of {wanted:,} bytes came"
        raise TransientStorageError(f"{failed}: {what}")
    return True


def receive(answer: Mapping[str, Any], target: Target, pace: Pace) -> int:
    """Put the body of an answer where it belongs; the number of bytes that came.

    The bytes go from the socket to their place: no object is made of them. What has come stays where the connection
    breaks (ConnectionError) or brings bytes too slowly (TimeoutError). After an answer of another length than what is
    left, which no store gives that knows ranges, everything is to come again.
    """
    with answer["Body"] as body:
        plain = getattr(body, "_fp", None)  # http.client's response, which alone knows the socket's buffer
        buffered: Any = getattr(plain, "fp", None)
        if plain is None or getattr(plain, "chunked", True) or not hasattr(buffered, "readinto1"):
            return _copied(body, target, pace)
        if plain.length != target.left:
            target.done = 0
            return int(plain.length or 0)
        moved = 0
        try:
            while target.left and (count := buffered.readinto1(target.room())):
                target.advance(count)
                moved += count
                pace.check(moved)
        except (HTTPException, ssl.SSLError) as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from None
        if not target.left:
            plain.length = 0
            plain.read(0)  # http.client sees that the body is over
            body.release_conn()  # for the next request
        return moved


def _copied(body: Any, target: Target, pace: Pace) -> int:
    """The same by copies: of a body in chunks, or of another HTTP library."""
    read, wanted, moved = getattr(body, "read1", body.read), target.left, 0
    try:
        while chunk := read(_CHUNK):
            moved += len(chunk)
            if moved <= wanted:
                target.write(chunk)
            pace.check(moved)
    finally:
        if moved != wanted:
            target.done = 0
    return moved
