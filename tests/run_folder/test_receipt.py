"""Receipts survive their JSON, and what is not a whole receipt is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from svc_dist.run_folder.receipt import Receipt, WrittenRange

RECEIPT = Receipt(
    unit="000003",
    fingerprint="f" * 64,
    ranges=(
        WrittenRange("xxh3_128:00", ("etag1", "etag2"), [{"matrix": 0, "gamma": [0.5]}]),
        WrittenRange("c", (), []),
    ),
    bytes_in=10,
    bytes_out=20,
    seconds={"read": 0.25, "compute": 1.5},
    host="n1",
    device="cpu",
    retries=2,
    deltas=[{"base": 1.0, "gram": [1.0]}],
    low_memory=True,
)


def test_a_receipt_survives_its_json() -> None:
    assert Receipt.from_json(RECEIPT.to_json()) == RECEIPT
    assert json.loads(RECEIPT.to_json())["ranges"][0]["tokens"] == ["etag1", "etag2"]


def test_what_is_optional_may_be_missing() -> None:
    data = json.loads(RECEIPT.to_json())
    for key in ("retries", "deltas", "low_memory"):
        del data[key]
    plain = dataclasses.replace(RECEIPT, retries=0, deltas=[], low_memory=False)
    assert Receipt.from_json(json.dumps(data).encode()) == plain


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_receipt_that_was_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        Receipt.from_json(RECEIPT.to_json()[:cut])


@pytest.mark.parametrize(("key", "value"), [("unit", 3), ("ranges", "none"), ("bytes_in", "many"), ("seconds", [1])])
def test_a_value_of_another_type_is_refused_with_its_key(key: str, value: object) -> None:
    data = json.loads(RECEIPT.to_json()) | {key: value}
    with pytest.raises(ValueError, match=key):
        Receipt.from_json(json.dumps(data).encode())
