"""Segments: what is written comes back, line by line, and what is damaged, or no segment, is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.run_folder.receipt import Receipt, WrittenRange
from svc_dist.run_folder.segments.segments import Segments
from svc_dist.storage.local import LocalStorage


def receipt(unit: str) -> Receipt:
    written = WrittenRange("xxh3_128:0", ("t",), [{"tensor": f"t{unit}", "kept_rank": 3}])
    return Receipt(unit, "f", (written,), 1, 2, {"read": 0.1}, "here", "cpu", 0, [{"tensor": "t", "gram": [0.5]}])


@pytest.fixture
def segments(tmp_path: Path) -> Segments:
    return Segments(LocalStorage(str(tmp_path)))


def test_receipts_come_back_whole_or_in_short(segments: Segments) -> None:
    assert segments.read() == {}
    for name, units in (("000001.jsonl", "ab"), ("000002.jsonl", "c")):
        segments.write(name, [receipt(unit).to_json() for unit in units])
    assert segments.read() == {"000001.jsonl": [receipt("a"), receipt("b")], "000002.jsonl": [receipt("c")]}
    (short,) = segments.read(brief=True)["000002.jsonl"]
    assert short == receipt("c").brief
    assert (short.ranges[0].checksum, short.ranges[0].tokens) == ("xxh3_128:0", ("t",))
    assert (short.ranges[0].matrices, short.deltas, short.seconds) == ([], [], {})


def test_receipts_are_removed_and_the_last_one_with_its_segment(segments: Segments) -> None:
    segments.write("000001.jsonl", [receipt(unit).to_json() for unit in "ab"])
    segments.remove("000001.jsonl", {"a", "x"})
    assert segments.read() == {"000001.jsonl": [receipt("b")]}
    segments.remove("000001.jsonl", {"b"})
    assert segments.read() == {}


@pytest.mark.parametrize("cut", [0, 1, 30, 500])
def test_a_segment_that_was_cut_or_changed_loses_only_the_lines_concerned(
    segments: Segments, tmp_path: Path, cut: int
) -> None:
    segments.write("000001.jsonl", [receipt(unit).to_json() for unit in "abc"])
    path = tmp_path / "segments" / "000001.jsonl"
    data = bytearray(path.read_bytes())
    data[40] ^= 1  # in the first line
    path.write_bytes(data[: len(data) - cut])
    left = [one.unit for one in segments.read()["000001.jsonl"]]
    assert left == {0: ["b", "c"], 1: ["b"], 30: ["b"], 500: []}[cut]


def test_what_is_no_segment_is_left_out(segments: Segments, tmp_path: Path) -> None:
    folder = tmp_path / "segments"
    (folder / "000007.jsonl").mkdir(parents=True)
    for name, data in (
        ("notes.txt", b"mine"),
        ("\u00b2.jsonl", b"{}"),
        ("000001.jsonl", b"\n[\n" * 9 + bytes(range(256))),
    ):
        (folder / name).write_bytes(data)
    assert segments.read() == {"000001.jsonl": []}
