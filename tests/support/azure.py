"""Azure's blobs in this process, as adlfs shows them: block lists, conditions and errors by Azure's documentation.

With adlfs installed and ``AZURE_STORAGE_CONNECTION_STRING`` set (for example to Azurite's), tests use that account.
"""

from __future__ import annotations

import enum
import hashlib
import importlib.util
import itertools
import os
import sys
import time
import types
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.asyn import get_loop

_numbers = itertools.count(1)


class AzureError(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"The specified request failed.\nErrorCode:{code}")
        self.status_code, self.error_code, self.reason = status, code, "The specified request failed."


class MatchConditions(enum.Enum):
    IfNotModified = 1


@dataclass
class Stored:
    data: bytes
    metadata: dict[str, str]
    etag: str = field(default_factory=lambda: f'"0x{next(_numbers):X}"')
    last_modified: datetime = field(default_factory=lambda: datetime.fromtimestamp(int(time.time()), UTC))

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass
class Account:
    """``failures``: raised by the next requests in place of an answer. ``asked``: each one's operation and blob."""

    blobs: dict[str, Stored] = field(default_factory=dict)
    blocks: dict[str, dict[str, bytes]] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)


class Download:
    def __init__(self, stored: Stored, data: bytes) -> None:
        self.properties, self._data = stored, data

    async def readall(self) -> bytes:
        return self._data


class Blob:
    """The client of one blob: those of its methods that a merge uses."""

    def __init__(self, account: Account, key: str) -> None:
        self.account, self.key = account, key

    async def __aenter__(self) -> Blob:
        return self

    async def __aexit__(self, *exception: object) -> None: ...

    def _ask(self, operation: str) -> None:
        self.account.asked.append((operation, self.key))
        if self.account.failures:
            raise self.account.failures.pop(0)

    def _existing(self, etag: str | None = None) -> Stored:
        stored = self.account.blobs.get(self.key)
        if stored is None:
            raise AzureError(404, "BlobNotFound")
        if etag is not None and stored.etag != etag:
            raise AzureError(412, "ConditionNotMet")
        return stored

    async def get_blob_properties(self, raw_response_hook: Any = None) -> Stored:
        self._ask("properties")
        if raw_response_hook is not None:
            headers = {"Date": formatdate(time.time(), usegmt=True)}
            raw_response_hook(SimpleNamespace(http_response=SimpleNamespace(headers=headers)))
        return self._existing()

    async def download_blob(
        self, offset: int = 0, length: int | None = None, etag: str | None = None, match_condition: Any = None
    ) -> Download:
        self._ask("read")
        stored = self._existing(etag)
        return Download(stored, stored.data[offset : None if length is None else offset + length])

    async def upload_blob(
        self, data: bytes, overwrite: bool, etag: str | None = None, match_condition: Any = None
    ) -> dict[str, str]:
        self._ask("write")
        if not overwrite and self.key in self.account.blobs:
            raise AzureError(409, "BlobAlreadyExists")
        if etag is not None:
            self._existing(etag)
        return self._store(data, {})

    def _store(self, data: bytes, metadata: dict[str, str]) -> dict[str, str]:
        self.account.blocks.pop(self.key, None)
        stored = self.account.blobs[self.key] = Stored(data, metadata)
        return {"etag": stored.etag}

    async def delete_blob(self) -> None:
        self._ask("delete")
        self._existing()
        del self.account.blobs[self.key]

    async def stage_block(self, block: str, data: bytes, length: int, validate_content: bool) -> dict[str, str]:
        self._ask("block")
        assert length == len(data)
        blocks = self.account.blocks.setdefault(self.key, {})
        if len({len(name) for name in (*blocks, block)}) > 1:
            raise AzureError(400, "InvalidBlobOrBlock")
        blocks[block] = data
        return {"content_md5": hashlib.md5(data).hexdigest()}

    async def get_block_list(self, kind: str) -> tuple[list[Any], list[Any]]:
        self._ask("blocks")
        assert kind == "uncommitted"
        if self.key not in self.account.blocks:
            self._existing()
        return [], [SimpleNamespace(id=block) for block in self.account.blocks.get(self.key, {})]

    async def commit_block_list(self, blocks: list[str], metadata: dict[str, str]) -> dict[str, str]:
        self._ask("commit")
        assert all(name.isidentifier() for name in metadata)
        staged = self.account.blocks.get(self.key, {})
        if not set(blocks) <= staged.keys():
            raise AzureError(400, "InvalidBlockList")
        return self._store(b"".join(staged[block] for block in blocks), metadata)


class AzureFiles(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """What adlfs does for a merge: it lists, and has a client."""

    protocol = "az"
    cachable = False
    account: ClassVar[Account]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        assert options["use_listings_cache"] is False
        self.loop, self.service_client = get_loop(), self

    def get_blob_client(self, container: str, path: str) -> Blob:
        return Blob(self.account, f"{container}/{path}")

    def split_path(self, path: str) -> tuple[str, str, None]:
        container, _, rest = path.partition("/")
        return container, rest, None

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return self.account.blobs[path].data[start:end]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = {}
        for key, stored in self.account.blobs.items():
            if key.startswith(f"{path}/"):
                first, mark, _rest = key[len(path) + 1 :].partition("/")
                name = f"{path}/{first}"
                kind = {"type": "directory", "size": 0} if mark else {"type": "file", "size": stored.size}
                entries[name] = {"name": name, **kind}
        if not entries:
            raise FileNotFoundError(path)
        return list(entries.values())


@contextmanager
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Account | None]]:
    """The URL of a prefix that is empty, and the account in this process, or None for a real one or Azurite."""
    root = uuid.uuid4().hex
    if importlib.util.find_spec("adlfs") is not None and "AZURE_STORAGE_CONNECTION_STRING" in os.environ:
        files = fsspec.filesystem("az")
        if not files.exists("svc-dist-tests"):
            files.mkdir("svc-dist-tests")
        yield f"az://svc-dist-tests/{root}", None
        return
    core = types.ModuleType("azure.core")
    core.MatchConditions = MatchConditions  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "azure", types.ModuleType("azure"))
    monkeypatch.setitem(sys.modules, "azure.core", core)
    monkeypatch.setattr(AzureFiles, "account", Account(), raising=False)
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "az", AzureFiles)  # type: ignore[attr-defined]
    yield f"az://container/{root}", AzureFiles.account
