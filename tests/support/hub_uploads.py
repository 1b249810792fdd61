"""What a hub does when files are uploaded: the part of its HTTP interface that ``HubBranch`` takes, over folders."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.support.hub import TOKEN, Hub, HubHandler


class WritableHub(Hub):
    """A hub that takes uploads; ``folder``: for the commits that these make.

    ``log``: what was asked of it, in order; ``refuse``: statuses to answer the next uploads of large files with;
    ``lose``: how many answers to commits get lost; ``before_commit``: called before each commit; ``read_only``: whether
    the token may only read; ``owners``: the token's user, and organizations of theirs.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(UploadHandler)
        self.folder = folder
        self.objects: dict[str, bytes] = {}  # large files that were sent, by SHA-256
        self.history: dict[str, list[str]] = {}  # the commits of each repository, the oldest first
        self.log: list[str] = []
        self.refuse: list[int] = []
        self.lose = 0
        self.read_only = False
        self.owners = ["somebody", "acme"]
        self.before_commit: Any = lambda: None

    def create(self, repository: str, private: bool) -> str:
        """A new repository as a hub makes it: with the list of its large files and nothing else."""
        first = self.folder / repository.replace("/", "--") / "0"
        first.mkdir(parents=True)
        (first / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        if private:
            self.private.add(repository)
        return self._add(repository, first, "main")

    def _add(self, repository: str, folder: Path, branch: str) -> str:
        sha = self.commit(repository, folder, branch)
        self.history.setdefault(repository, []).append(sha)
        return sha

    def change(self, repository: str, branch: str, files: dict[str, bytes | None]) -> str:
        """A commit with these files (None: removed) on top of a branch."""
        head = self.commits[repository][self.branches[repository][branch]]
        folder = head.parent / str(len(self.commits[repository]))
        shutil.copytree(head, folder)
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True) if data is None else path.write_bytes(data)
        return self._add(repository, folder, branch)

    def tree(self, repository: str, branch: str = "main") -> dict[str, bytes]:
        """The files of a branch as a reader sees them now."""
        folder = self.commits[repository][self.branches[repository][branch]]
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class UploadHandler(HubHandler):
    hub: WritableHub

    def do_GET(self) -> None:  # noqa: N802
        parts = self._parts()
        if parts[:2] == ["api", "models"] and parts[4:5] == ["commits"]:
            history = self.hub.history["/".join(parts[2:4])]
            authors = {"authors": [], "date": "2026-11-29T00:00:00.000Z", "title": "", "message": ""}
            self._json([{"id": sha, **authors} for sha in reversed(history)])
        elif parts == ["api", "whoami-v2"]:
            self._say_who()
        else:
            super().do_GET()

    def _say_who(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._error(401, "")
            return
        user, *others = self.hub.owners
        role = {"displayName": "tests", "role": "read" if self.hub.read_only else "write"}
        orgs = [{"type": "org", "name": other, "roleInOrg": "write"} for other in others]
        self._json({"type": "user", "name": user, "orgs": orgs, "auth": {"type": "access_token", "accessToken": role}})

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise AssertionError("the stand-in reads no chunks")
        parts = self._parts()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._error(401, "")
        elif self.hub.read_only:
            self._error(403, "")
        elif parts == ["api", "validate-yaml"]:
            self._validate(json.loads(body)["content"])
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[:2] == ["api", "models"] and parts[4] == "branch":
            repository = "/".join(parts[2:4])
            self.hub.log.append(f"branch {parts[5]}")
            self.hub.branches[repository][parts[5]] = json.loads(body)["startingPoint"]
            self._json({})
        elif parts[:2] == ["api", "models"] and parts[4] == "preupload":
            self._preupload("/".join(parts[2:4]), parts[5], json.loads(body))
        elif parts[:2] == ["api", "models"] and parts[4] == "commit":
            self._commit_files("/".join(parts[2:4]), parts[5], [json.loads(line) for line in body.splitlines()])
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            self._json({"transfer": "basic", "objects": [self._action(one) for one in json.loads(body)["objects"]]})
        else:
            self._error(404, "")

    def do_PUT(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.refuse:
            self._error(self.hub.refuse.pop(0), "")
            return
        oid = self._parts()[-1]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self.hub.log.append("object")
        self._json({})

    def _parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _validate(self, card: str) -> None:
        """Refuse a card whose models are no ids, as the hub does."""
        bases = yaml.safe_load(card.split("---\n")[1]).get("base_model", [])
        wrong = [
            one for one in ([bases] if isinstance(bases, str) else bases) if not re.fullmatch(r"[\w.-]+/[\w.-]+", one)
        ]
        errors = [{"message": f'"base_model" with value "{one}" is not valid'} for one in wrong]
        self._json({"errors": errors, "warnings": []}, status=400 if errors else 200)

    def _create(self, asked: dict[str, Any]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        if repository in self.hub.commits:
            self._error(409, "")
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.log.append(f"create {'private' if private else 'public'}")
        self.hub.create(repository, private)
        self._json({"url": f"{self.hub.endpoint}/{repository}"})

    def _preupload(self, repository: str, branch: str, asked: dict[str, Any]) -> None:
        files = []
        for one in asked["files"]:
            mode = "lfs" if one["path"].endswith(".safetensors") else "regular"
            files.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False})
        self._json({"files": files})

    def _action(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] in self.hub.objects:
            return found
        return found | {"actions": {"upload": {"href": f"{self.hub.endpoint}/objects/{asked['oid']}"}}}

    def _commit_files(self, repository: str, branch: str, lines: list[dict[str, Any]]) -> None:
        self.hub.before_commit()
        header, *rest = lines
        if header["value"].get("parentCommit") != self.hub.branches[repository][branch]:
            self._error(412, "")
            return
        files: dict[str, bytes | None] = {}
        for line in rest:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                files[value["path"]] = self.hub.objects[value["oid"]]
        sha = self.hub.change(repository, branch, files)
        self.hub.log.append(f"commit {len(files)}: {header['value']['summary']}")
        if self.hub.lose:
            self.hub.lose -= 1
            self._error(503, "")
            return
        self._json({"commitUrl": f"{self.hub.endpoint}/{repository}/commit/{sha}", "commitOid": sha, "success": True})
