"""Receipts survive their JSON, and what is not a whole receipt is refused."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.plan.model import Plan
from svc_dist.run_folder.receipt import Receipt, WrittenRange, sealed
from tests.support.checkpoints import write_llamas, write_recipe

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


def content() -> dict[str, Any]:
    """The receipt without its seal."""
    return {key: value for key, value in json.loads(RECEIPT.to_json()).items() if key != "seal"}


def test_a_receipt_survives_its_json() -> None:
    assert Receipt.from_json(RECEIPT.to_json()) == RECEIPT
    assert json.loads(RECEIPT.to_json())["ranges"][0]["tokens"] == ["etag1", "etag2"]


def test_what_is_optional_may_be_missing() -> None:
    data = content()
    for key in ("retries", "deltas", "low_memory"):
        del data[key]
    plain = dataclasses.replace(RECEIPT, retries=0, deltas=[], low_memory=False)
    assert Receipt.from_json(sealed(json.dumps(data).encode())) == plain


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_receipt_that_was_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        Receipt.from_json(RECEIPT.to_json()[:cut])


@pytest.mark.parametrize(("key", "value"), [("unit", 3), ("ranges", "none"), ("bytes_in", "many"), ("seconds", [1])])
def test_a_value_of_another_type_is_refused_with_its_key(key: str, value: object) -> None:
    data = content() | {key: value}
    with pytest.raises(ValueError, match=key):
        Receipt.from_json(sealed(json.dumps(data).encode()))


def test_a_receipt_that_was_edited_is_refused() -> None:
    text = RECEIPT.to_json()
    for old, new in ((b"000003", b"000002"), (b"etag1", b"etag3"), (b"1.5", b"1.6"), (b'"low_memory":true,', b"")):
        assert old in text
        with pytest.raises(ValueError, match="seal"):
            Receipt.from_json(text.replace(old, new))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("models")
    return svc_dist.make_plan(write_recipe(folder / "r.yaml", write_llamas(folder), max_shard_size="1kB"))


def test_a_receipt_proves_its_own_unit_of_its_own_plan_and_nothing_else(plan: Plan) -> None:
    unit = plan.units[1].id
    ours = dataclasses.replace(
        RECEIPT, unit=unit, fingerprint=plan.fingerprint, ranges=(WrittenRange("xxh3_128:0", ("t",), []),)
    )
    assert ours.proves(plan, unit)
    assert not ours.proves(plan, plan.units[2].id)
    for other in (
        {"unit": plan.units[2].id}, {"fingerprint": "f"}, {"ranges": ()}, {"ranges": ours.ranges * 2},
        {"ranges": (WrittenRange("xxh3_128:0", ("t", "u"), []),)}, {"unit": "../000001"},
    ):  # fmt: skip
        assert not dataclasses.replace(ours, **other).proves(plan, unit)  # type: ignore[arg-type]


def test_no_type_is_decoded_for_the_first_time_by_several_threads() -> None:
    """msgspec ends the process there; a decoder that is made when its module is imported has seen the type."""
    package = Path(svc_dist.__file__).parent
    calls = [
        (file.name, ast.unparse(keyword.value))
        for file in sorted(package.rglob("*.py"))
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "msgspec.json.decode"
        for keyword in call.keywords
        if keyword.arg == "type"
    ]
    plain = {"dict[str, str]", "dict[str, Any]"}
    assert {what for what in calls if what[1] not in plain} == {
        ("journal.py", "dict[str, FailureRecord]"),  # read by one thread, at the end of a run
        ("report.py", "cls"),  # of the two kinds whose decoders are made below them
    }
