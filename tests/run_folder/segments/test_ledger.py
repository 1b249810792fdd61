"""The ledger: a start reads segments and the few receipts beside them; no copy counts for a unit that runs again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import StorageError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.journal import Journal
from svc_dist.run_folder.receipt import Receipt
from svc_dist.run_folder.segments import ledger as module
from svc_dist.run_folder.segments.ledger import Ledger
from svc_dist.run_folder.segments.segments import Segments
from svc_dist.storage.local import LocalStorage
from svc_dist.storage.writing.base import ShardFile, ShardState
from tests.run_folder.test_journal import receipt
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import shard_hashes
from tests.support.stopped import stop_merge

SIZE = 3  # receipts of a segment


class Whole:
    """A sink whose storage has everything but the ranges of the ``lost`` shards."""

    memory = 0
    self_proving = True

    def __init__(self, lost: str = "") -> None:
        self.lost = lost

    def state(self, shard: ShardFile) -> ShardState | None:
        return None if shard.file == self.lost else ShardState(False)


class Counting(LocalStorage):
    """Counts the files that are read."""

    reads: list[str] = []  # noqa: RUF012  (of all views)

    def get_within(self, name: str, largest: int) -> bytes | None:
        self.reads.append(name)
        return super().get_within(name, largest)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("models")
    plan = svc_dist.make_plan(write_recipe(folder / "r.yaml", write_llamas(folder), max_shard_size="1kB"))
    assert len(plan.units) > 3 * SIZE
    return plan


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr(module, "SEGMENT", SIZE)
    Counting.reads.clear()
    return Journal(Counting(str(tmp_path / ".svc_dist")))


def resumed(journal: Journal, plan: Plan, lost: str = "") -> list[str]:
    with Ledger(journal, plan) as ledger:
        return list(ledger.resume(Whole(lost), pytest.fail))  # type: ignore[arg-type]


def run(journal: Journal, plan: Plan, units: int) -> list[Receipt]:
    """What a start leaves that did so many units."""
    receipts = [receipt(plan, number) for number in range(units)]
    with Ledger(journal, plan) as ledger:
        for one in receipts:
            journal.record(one)
            ledger.add(one)
    return receipts


def test_a_start_reads_the_segments_and_what_is_in_none(journal: Journal, plan: Plan) -> None:
    receipts = run(journal, plan, 2 * SIZE + 2)
    assert resumed(journal, plan) == [one.unit for one in receipts]
    assert sorted(Counting.reads) == [
        *(f"receipts/{one.unit}.json" for one in receipts[2 * SIZE :]),
        *(f"segments/{number:06d}.jsonl" for number in (1, 2)),
    ]
    assert journal.receipts(plan) == {one.unit: one for one in receipts}, "whole: the report takes more"


def test_what_many_short_starts_leave_is_copied_too(journal: Journal, plan: Plan) -> None:
    for number in range(SIZE):
        journal.record(receipt(plan, number))
    assert len(resumed(journal, plan)) == SIZE
    Counting.reads.clear()
    assert len(resumed(journal, plan)) == SIZE
    assert Counting.reads == ["segments/000001.jsonl"]


def test_a_copy_without_its_receipt_counts_for_nothing_and_goes(journal: Journal, plan: Plan) -> None:
    receipts = run(journal, plan, SIZE)
    journal.drop([receipts[1].unit])
    assert set(journal.receipts(plan)) == {receipts[0].unit, receipts[2].unit}
    assert resumed(journal, plan) == [receipts[0].unit, receipts[2].unit]
    again = dataclasses.replace(receipts[1], host="elsewhere")
    journal.record(again)
    assert journal.receipts(plan)[again.unit] == again, "not the one of before"


def test_a_copy_of_a_range_that_is_gone_goes_with_its_receipt(journal: Journal, plan: Plan) -> None:
    run(journal, plan, len(plan.units))
    lost = plan.shards[plan.units[0].shard].file
    left = [unit.id for unit in plan.units if plan.shards[unit.shard].file != lost]
    assert sorted(resumed(journal, plan, lost)) == left
    copies = {one.unit for receipts in Segments(journal.storage).read().values() for one in receipts}
    assert copies <= set(left)


def test_a_unit_whose_range_was_lost_has_no_copy_before_it_runs_again(journal: Journal, plan: Plan) -> None:
    with Ledger(journal, plan) as ledger:
        for number in range(SIZE + 1):
            journal.record(receipt(plan, number))
            ledger.add(receipt(plan, number))
        units = [plan.units[0], plan.units[SIZE]]  # one in a segment, one in none yet
        journal.drop([unit.id for unit in units])
        ledger.remove([unit.id for unit in units])
        known = [unit for shard in range(plan.count) for unit in ledger.of(shard)]
        assert known == [unit.id for unit in plan.units[1:SIZE]]
        again = dataclasses.replace(receipt(plan, 0), host="elsewhere")
        journal.record(again)
        ledger.add(again)
    assert journal.receipts(plan)[again.unit] == again


def test_a_segment_that_cannot_be_written_costs_only_time(
    journal: Journal, plan: Plan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(segments: Segments, name: str, lines: object) -> None:
        raise StorageError("cannot write: no space left")

    monkeypatch.setattr(Segments, "write", full)
    receipts = run(journal, plan, SIZE)
    assert "cannot write: no space left: the next start reads 3 receipts one by one" in caplog.text
    monkeypatch.undo()
    assert resumed(journal, plan) == [one.unit for one in receipts]


def test_copies_of_another_plan_count_for_nothing(journal: Journal, plan: Plan) -> None:
    run(journal, plan, SIZE)
    assert resumed(journal, dataclasses.replace(plan, fingerprint="another")) == []


def test_a_shard_is_finished_without_reading_a_receipt_that_the_driver_knows(journal: Journal, plan: Plan) -> None:
    run(journal, plan, len(plan.units))
    with Ledger(journal, plan) as ledger:
        ledger.resume(Whole(), pytest.fail)  # type: ignore[arg-type]
        known = ledger.of(0)
    Counting.reads.clear()
    assert journal.tokens(plan, 0, known) == [["t"] * sum(unit.shard == 0 for unit in plan.units)]
    assert Counting.reads == []


def test_a_merge_that_stops_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", SIZE)
    recipe = write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path), max_shard_size="1kB", calibrate="svc")
    units = svc_dist.merge(recipe, tmp_path / "whole", executor="inline", device="cpu").units
    for receipts in (SIZE + 1, 1, SIZE):
        stop_merge(recipe, tmp_path / "out", receipts)
    copied = [len(one) for one in Segments(LocalStorage(str(tmp_path / "out" / ".svc_dist"))).read().values()]
    assert copied == [SIZE, SIZE]
    report = svc_dist.merge(recipe, tmp_path / "out", executor="inline", device="cpu")
    assert report.units_resumed == 2 * SIZE + 2 < units
    assert shard_hashes(tmp_path / "out") == shard_hashes(tmp_path / "whole")
    assert not (tmp_path / "out" / ".svc_dist").exists()
