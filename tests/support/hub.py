"""A stand-in for a hub: the part of its HTTP interface that reading models takes, over folders on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standinTokenOfTheTests"


class Hub:
    """Repositories by ``owner/name``; branches point to commits, each a folder. ``private`` ones want ``TOKEN``.

    ``gated`` ones show their names to everybody and their files to nobody.
    """

    def __init__(self, handler: type[HubHandler] | None = None) -> None:
        self.commits: dict[str, dict[str, Path]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.fail: list[int] = []  # statuses to answer the next ranges with
        self.requests: Counter[str] = Counter()
        bound = type("Handler", (handler or HubHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def commit(self, repository: str, folder: Path, branch: str = "main") -> str:
        """Make a folder the newest commit of a branch; its hash."""
        commits = self.commits.setdefault(repository, {})
        sha = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[sha] = folder
        self.branches.setdefault(repository, {})[branch] = sha
        return sha

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class HubHandler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            repository, rest = "/".join(parts[2:4]), parts[4:]
            kind = rest[0] if rest else "revision"
            folder, sha = self._commit(repository, rest[1] if len(rest) > 1 else "main")
            self.hub.requests[kind] += 1
            if folder is not None and kind == "revision":
                self._json(
                    {
                        "id": repository,
                        "sha": sha,
                        "siblings": [],
                        "tags": [],
                        "private": repository in self.hub.private,
                    }
                )
            elif folder is not None and kind == "tree":
                inside = folder.joinpath(*rest[2:])
                if inside.is_dir():
                    every = inside.rglob("*") if "recursive=true" in self.path.lower() else inside.iterdir()
                    self._json([self._entry(file, folder) for file in sorted(every)])
                else:
                    self._error(404, "EntryNotFound")
        elif len(parts) >= 5 and parts[2] == "resolve":
            folder, _ = self._commit("/".join(parts[:2]), parts[3])
            self.hub.requests["resolve"] += 1
            if folder is not None and "/".join(parts[:2]) in self.hub.gated:
                self._error(403, "GatedRepo")
            elif folder is not None:
                self._file(folder.joinpath(*parts[4:]))
        else:
            self._error(404, "EntryNotFound")

    def _commit(self, repository: str, revision: str) -> tuple[Path | None, str]:
        """The folder of a revision; None when the refusal was sent."""
        commits = self.hub.commits.get(repository)
        authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if commits is None or (repository in self.hub.private and not authorised):
            self._error(401, "RepoNotFound")
            return None, ""
        sha = self.hub.branches[repository].get(revision, revision)
        if sha not in commits:
            self._error(404, "RevisionNotFound")
            return None, ""
        return commits[sha], sha

    @staticmethod
    def _entry(file: Path, root: Path) -> dict[str, Any]:
        path = file.relative_to(root).as_posix()
        if file.is_dir():
            return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        data = file.read_bytes()
        entry = {
            "type": "file",
            "path": path,
            "size": len(data),
            "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
        }
        if file.suffix == ".safetensors":
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def _file(self, file: Path) -> None:
        if not file.exists():
            self._error(404, "EntryNotFound")
            return
        if file.suffix == ".safetensors" and self.hub.fail:
            self._error(self.hub.fail.pop(), "")
            return
        data = file.read_bytes()
        start, end = 0, len(data)
        wanted = self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, len(data)) if last else len(data)
        body = data[start:end]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def write_cache(home: Path, repository: str, folder: Path, commit: str = "a" * 40, branch: str = "main") -> Path:
    """A folder as a snapshot in a local cache at ``home/hub``, its files links into blobs; the snapshot."""
    root = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = root / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        if not blob.exists():
            blob.write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / branch).write_text(commit)
    return snapshot
