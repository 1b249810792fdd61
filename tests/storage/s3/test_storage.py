"""The objects under a prefix of a bucket: listed by page, looked for by what names have in common, removed together."""

from __future__ import annotations

from typing import Any

import pytest

from svc_dist.errors import StorageError, TransientStorageError
from svc_dist.storage.s3 import storage as s3
from svc_dist.storage.s3.storage import S3Storage

PAGE = 3


class Objects(S3Storage):
    """A bucket of these keys. ``refused``: what it answers a request that removes many objects with."""

    def __init__(self, keys: list[str], refused: Exception | None = None, failing: str = "") -> None:
        super().__init__("s3://bucket/out")
        self.keys, self.refused, self.failing = set(keys), refused, failing
        self.calls: list[str] = []

    def call(self, operation: str, purpose: str, parameters: dict[str, Any], **_: Any) -> Any:
        self.calls.append(operation)
        if operation == "list_objects_v2":
            keys = [key for key in sorted(self.keys) if key.startswith(parameters["Prefix"])]
            first = int(parameters.get("ContinuationToken", 0))
            page = {"Contents": [{"Key": key} for key in keys[first : first + PAGE]]}
            more = first + PAGE < len(keys)
            return page | ({"IsTruncated": True, "NextContinuationToken": str(first + PAGE)} if more else {})
        if operation == "delete_object":
            self.keys.discard(parameters["Key"])
            return {}
        assert operation == "delete_objects"
        if self.refused is not None:
            raise self.refused
        removed = {entry["Key"] for entry in parameters["Delete"]["Objects"]} - {self.failing}
        self.keys -= removed
        return {"Errors": [{"Key": self.failing, "Code": "InternalError"}]} if self.failing else {}


def receipts(*numbers: int) -> list[str]:
    return [f"{number:06d}.json" for number in numbers]


def test_names_are_looked_for_only_where_they_can_be() -> None:
    names = receipts(*range(95, 130))
    storage = Objects([f"out/receipts/{name}" for name in names] + ["out/receipts/000200.json", "out/plan.json"])
    assert storage.existing("receipts", []) == set()
    assert storage.calls == []
    assert storage.existing("receipts", receipts(100, 104, 109, 999)) == set(receipts(100, 104, 109))
    storage.calls.clear()
    assert storage.existing("receipts", receipts(101, 105, 107)) == set(receipts(101, 105, 107))
    assert len(storage.calls) == 4, "of ten names that begin so, by page"
    assert storage.names("receipts") == [*names, "000200.json"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_BATCH", 4)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("refused", "failing", "single"),
    [(None, "", 0), (None, "out/receipts/000005.json", 1), (StorageError("not implemented"), "", 11)],
    ids=["together", "one fails", "a store that cannot"],
)
def test_many_objects_are_removed_together(refused: Exception | None, failing: str, single: int) -> None:
    keys = [f"out/receipts/{name}" for name in receipts(*range(10))]
    storage = Objects([*keys, "out/lock", "out/plan.json", "outside"], refused, failing)
    storage.clear(keep=("lock",))
    assert storage.keys == {"out/lock", "outside"}
    assert storage.calls.count("delete_objects") == 3
    assert storage.calls.count("delete_object") == single


@pytest.mark.usefixtures("few")
def test_a_storage_that_does_not_answer_is_not_asked_for_each_object() -> None:
    storage = Objects([f"out/{number}" for number in range(9)], TransientStorageError("timeout"))
    with pytest.raises(TransientStorageError):
        storage.clear()
    assert "delete_object" not in storage.calls


@pytest.mark.usefixtures("few")
def test_a_few_objects_are_removed_one_by_one() -> None:
    storage = Objects(["out/a", "out/b/c"])
    storage.clear()
    assert (storage.keys, storage.calls.count("delete_object")) == (set(), 2)
