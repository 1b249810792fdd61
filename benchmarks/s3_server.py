"""A plain, fast S3 server for measuring clients: objects in a folder, sent by ``sendfile``, no signatures checked.

    python benchmarks/s3_server.py /dev/shm/s3 --port 9000

It knows what a merge asks for: ranges, If-Match, If-None-Match, lists, multipart uploads, many deletions at once. It
keeps the list of objects in memory and takes little CPU time beside the client that is measured. ``--discard`` keeps no
bodies of parts, and ``--limit N`` answers 503 SlowDown to more than N requests for objects a second, as a throttling
store does.
``--tls FILE`` speaks TLS, with the certificate and key in this file (then nothing is sent by ``sendfile``):

    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost \\
        -keyout key.pem -out cert.pem; cat cert.pem key.pem > both.pem     # AWS_CA_BUNDLE=cert.pem for clients
"""

from __future__ import annotations

import argparse
import io
import itertools
import mmap
import os
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

_BLOCK = 1 << 20


@dataclass
class Stored:
    """An object or a part: its file, and what a HEAD answers."""

    file: Path | None
    size: int
    etag: str
    written: float = field(default_factory=time.time)
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class Upload:
    key: str
    metadata: dict[str, str]
    parts: dict[int, Stored] = field(default_factory=dict)


class Limit:
    """At most ``rate`` requests in any second; every one passes with 0."""

    def __init__(self, rate: int) -> None:
        self.rate, self._passed, self._lock = rate, deque[float](), threading.Lock()
        self.refused = 0

    def passes(self) -> bool:
        now = time.monotonic()
        with self._lock:
            while self._passed and now - self._passed[0] > 1:
                self._passed.popleft()
            if self.rate and len(self._passed) >= self.rate:
                self.refused += 1
                return False
            self._passed.append(now)
            return True


class FastServer(ThreadingHTTPServer):
    """The objects of every bucket, by ``bucket/key``."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path, port: int = 0, discard: bool = False, limit: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.folder, self.discard, self.limit = folder, discard, Limit(limit)
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Upload] = {}
        self._numbers = itertools.count()
        self.lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def new_name(self) -> str:
        return f"{next(self._numbers):032x}"

    def add(self, key: str, file: Path) -> None:
        """Serve a file as an object, without a copy."""
        self.objects[key] = Stored(file, file.stat().st_size, f'"{self.new_name()}"')


class _Unframed(io.RawIOBase):
    """A body that comes in chunks of HTTP."""

    def __init__(self, body: io.BufferedReader) -> None:
        self._body, self._left, self._over = body, 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left and not self._over:
            self._left = int(self._body.readline().split(b";")[0], 16)
            self._over = not self._left
            if self._over:
                self._body.readline()
        count = self._body.readinto(memoryview(buffer)[: self._left])
        self._left -= count
        if count and not self._left:
            self._body.readline()
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a head goes out in one packet
    server: FastServer

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _asked(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        return unquote(url.path).lstrip("/"), query

    def _answer(self, status: int, body: str = "", **headers: str) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")

    def _body(self, keep: bool = True) -> tuple[Path | None, int]:
        """The request's body in a file of its own, and its size."""
        size = 0
        file = self.server.folder / self.server.new_name() if keep else None
        out = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600) if file else -1
        buffer, body = memoryview(bytearray(_BLOCK)), cast(io.BufferedReader, self.rfile)
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            body = io.BufferedReader(_Unframed(body), _BLOCK)
        try:
            for left in self._pieces(body):
                size += left
                while left:
                    count = body.readinto(buffer[: min(left, _BLOCK)])
                    if not count:
                        raise ConnectionResetError
                    if file:
                        os.write(out, buffer[:count])
                    left -= count
        finally:
            if file:
                os.close(out)
        return file, size

    def _pieces(self, body: io.BufferedReader) -> Iterator[int]:
        """The lengths of the pieces of the body, which come one after another."""
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            yield int(self.headers.get("Content-Length", 0))
            return
        while length := int(body.readline().split(b";")[0], 16):
            yield length
            body.readline()
        while body.read(_BLOCK):  # trailers
            pass

    def do_HEAD(self) -> None:
        key, _ = self._asked()
        stored = self.server.objects.get(key)
        if stored is None:
            return self._refuse(404, "NoSuchKey")
        self.send_response(200)
        self._describe(stored)
        self.send_header("Content-Length", str(stored.size))
        self.end_headers()
        self.wfile.flush()
        return None

    def _describe(self, stored: Stored) -> None:
        self.send_header("ETag", stored.etag)
        self.send_header("Last-Modified", formatdate(stored.written, usegmt=True))
        for name, value in stored.metadata.items():
            self.send_header(name, value)

    def do_GET(self) -> None:
        key, query = self._asked()
        if "uploadId" in query:
            return self._list_parts(query["uploadId"])
        if "uploads" in query:
            return self._list_uploads(key)
        if "list-type" in query:
            return self._list(key.partition("/")[0], query)
        if not self.server.limit.passes():
            return self._refuse(503, "SlowDown")
        stored = self.server.objects.get(key)
        if stored is None or stored.file is None:
            return self._refuse(404, "NoSuchKey")
        if self.headers.get("If-Match", stored.etag) != stored.etag:
            return self._refuse(412, "PreconditionFailed")
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert span is not None
        start, end = int(span[1]), min(int(span[2] or stored.size) + 1, stored.size)
        self.send_response(206 if "Range" in self.headers else 200)
        self._describe(stored)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{stored.size}")
        self.end_headers()
        self.wfile.flush()
        if isinstance(self.connection, ssl.SSLSocket):
            with stored.file.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                self.connection.sendall(memoryview(mapped)[start:end])
            return None
        descriptor = os.open(stored.file, os.O_RDONLY)
        try:
            while start < end:
                start += os.sendfile(self.connection.fileno(), descriptor, start, end - start)
        finally:
            os.close(descriptor)
        return None

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        folders, lines = set(), []
        for path, stored in sorted(self.server.objects.items()):
            key = path.removeprefix(f"{bucket}/")
            if key == path or not key.startswith(prefix):
                continue
            folder, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if mark:
                folders.add(prefix + folder + mark)
            else:
                lines.append(f"<Contents><Key>{escape(key)}</Key><Size>{stored.size}</Size></Contents>")
        lines += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(lines)}</ListBucketResult>")

    def _list_parts(self, upload: str) -> None:
        if upload not in self.server.uploads:
            return self._refuse(404, "NoSuchUpload")
        parts = sorted(self.server.uploads[upload].parts.items())
        lines = [f"<Part><PartNumber>{n}</PartNumber><ETag>{part.etag}</ETag></Part>" for n, part in parts]
        self._answer(200, f"<ListPartsResult><IsTruncated>false</IsTruncated>{''.join(lines)}</ListPartsResult>")
        return None

    def _list_uploads(self, bucket: str) -> None:
        lines = [
            f"<Upload><Key>{escape(upload.key.partition('/')[2])}</Key><UploadId>{number}</UploadId></Upload>"
            for number, upload in self.server.uploads.items()
        ]
        body = f"<IsTruncated>false</IsTruncated>{''.join(lines)}"
        self._answer(200, f"<ListMultipartUploadsResult>{body}</ListMultipartUploadsResult>")

    def do_PUT(self) -> None:
        key, query = self._asked()
        upload = self.server.uploads.get(query.get("uploadId", ""))
        file, size = self._body(keep="uploadId" not in query or not self.server.discard)
        stored = Stored(file, size, f'"{self.server.new_name()}"', metadata=self._metadata())
        if "/" not in key.rstrip("/"):
            return self._answer(200)
        if "uploadId" in query:
            if not self.server.limit.passes():
                return self._refuse(503, "SlowDown")
            if upload is None:
                return self._refuse(404, "NoSuchUpload")
            upload.parts[int(query["partNumber"])] = stored
        else:
            with self.server.lock:
                there = self.server.objects.get(key)
                wanted = self.headers.get("If-Match")
                if (self.headers.get("If-None-Match") and there) or (wanted and (not there or there.etag != wanted)):
                    return self._refuse(412, "PreconditionFailed")
                self.server.objects[key] = stored
        self._answer(200, ETag=stored.etag)
        return None

    def _metadata(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}

    def do_POST(self) -> None:
        key, query = self._asked()
        body, _ = self._body()
        sent = b""
        if body is not None:
            sent = body.read_bytes()
            body.unlink()
        if "delete" in query:
            for name in re.findall("<Key>(.*?)</Key>", sent.decode()):
                self._remove(f"{key.strip('/')}/{unescape(name)}")
            return self._answer(200, "<DeleteResult></DeleteResult>")
        if "uploads" in query:
            number = self.server.new_name()
            self.server.uploads[number] = Upload(key, self._metadata())
            return self._answer(
                200, f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
            )
        upload = self.server.uploads.pop(query["uploadId"], None)
        if upload is None:
            return self._refuse(404, "NoSuchUpload")
        parts = [upload.parts[number] for number in sorted(upload.parts)]
        file = None if self.server.discard else self.server.folder / self.server.new_name()
        if file is not None:
            with file.open("wb") as out:
                for part in parts:
                    assert part.file is not None
                    out.write(part.file.read_bytes())
                    part.file.unlink()
        stored = Stored(
            file, sum(part.size for part in parts), f'"{self.server.new_name()}-{len(parts)}"', metadata=upload.metadata
        )
        self.server.objects[key] = stored
        result = f"<ETag>{escape(stored.etag)}</ETag>"
        self._answer(200, f"<CompleteMultipartUploadResult>{result}</CompleteMultipartUploadResult>")
        return None

    def do_DELETE(self) -> None:
        key, query = self._asked()
        if "uploadId" in query:
            self.server.uploads.pop(query["uploadId"], None)
        else:
            self._remove(key)
        self._answer(204)

    def _remove(self, key: str) -> None:
        stored = self.server.objects.pop(key, None)
        if stored is not None and stored.file is not None and stored.file.parent == self.server.folder:
            stored.file.unlink()

    def log_message(self, *arguments: object) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for what is written; its bucket/key files are served")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--discard", action="store_true", help="keep no bodies of parts")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="requests a second before it answers 503")
    parser.add_argument("--tls", type=Path, metavar="FILE", help="certificate and key")
    options = parser.parse_args()
    with FastServer(options.folder / ".written", options.port, options.discard, options.limit) as server:
        for file in sorted(options.folder.rglob("*")):
            if file.is_file() and ".written" not in file.parts:
                server.add(str(file.relative_to(options.folder)), file)
        if options.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(options.tls)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "http" if options.tls is None else "https"
        print(f"{scheme}://localhost:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
