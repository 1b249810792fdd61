"""The run folder: a plan and receipts that come back, and what is damaged or another plan's is not counted."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import DamagedInputError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.journal import FailureRecord, Journal, describe_failure
from svc_dist.run_folder.receipt import Receipt, WrittenRange
from svc_dist.storage.open import open_storage
from svc_dist.storage.writing.base import LostRangesError, ShardFile, ShardState
from tests.support.checkpoints import write_llamas, write_recipe


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("models")
    return svc_dist.make_plan(write_recipe(folder / "r.yaml", write_llamas(folder), max_shard_size="1kB"))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(open_storage(str(tmp_path / ".svc_dist")))


def receipt(plan: Plan, number: int, token: str = "t") -> Receipt:
    unit = plan.units[number]
    written = WrittenRange("xxh3_128:0", (token,), [])
    return Receipt(unit.id, plan.fingerprint, (written,), 1, unit.bytes_out, {"read": 0.1}, "here", "cpu")


def test_a_plan_comes_back_and_a_damaged_one_says_so(plan: Plan, journal: Journal) -> None:
    assert journal.plan() is None
    assert journal.is_empty()
    journal.record_plan(plan)
    assert journal.plan() == plan
    assert journal.is_there()
    journal.storage.put("plan.json", plan.to_json().encode()[:100])
    with pytest.raises(DamagedInputError, match=r"plan\.json cannot be read"):
        journal.plan()


def test_receipts_of_this_plan_count_and_no_others(plan: Plan, journal: Journal) -> None:
    for number in (0, 1):
        journal.record(receipt(plan, number))
    journal.record(dataclasses.replace(receipt(plan, 2), fingerprint="another"))
    journal.record(dataclasses.replace(receipt(plan, 3), unit="999999"))
    journal.storage.put(f"receipts/{plan.units[4].id}.json", b"{")
    assert journal.receipts(plan) == {plan.units[n].id: receipt(plan, n) for n in (0, 1)}
    shard = plan.units[1].shard
    assert set(journal.receipts(plan, shard)) == {u.id for u in plan.units[:2] if u.shard == shard}


def test_the_tokens_of_a_shard_are_in_the_order_of_its_units(plan: Plan, journal: Journal) -> None:
    shard = plan.units[0].shard
    numbers = [number for number, unit in enumerate(plan.units) if unit.shard == shard]
    with pytest.raises(LostRangesError, match=plan.units[0].id):
        journal.tokens(plan, shard)
    for number in reversed(numbers):
        journal.record(receipt(plan, number, f"t{number}"))
    assert journal.tokens(plan, shard) == [[f"t{number}" for number in numbers]]


class Held:
    """A sink that holds what it is told: the numbers of the parts and their tokens, by shard."""

    memory = 0

    def __init__(self, states: dict[str, ShardState | None]) -> None:
        self.states = states

    def state(self, shard: ShardFile) -> ShardState | None:
        return self.states[shard.file]


def test_only_receipts_whose_ranges_the_sink_holds_survive(plan: Plan, journal: Journal) -> None:
    states: dict[str, ShardState | None] = {shard.file: ShardState(False) for shard in plan.shards}
    lost = plan.shards[plan.units[0].shard].file
    for number in range(len(plan.units)):
        journal.record(receipt(plan, number))
    everything = journal.surviving(plan, Held(states), pytest.fail)  # type: ignore[arg-type]
    assert set(everything) == {unit.id for unit in plan.units}
    states[lost] = None
    surviving = journal.surviving(plan, Held(states), pytest.fail)  # type: ignore[arg-type]
    assert set(surviving) == {unit.id for unit in plan.units if plan.shards[unit.shard].file != lost}
    assert journal.receipts(plan) == surviving, "the others are dropped for good"


def test_another_token_than_the_receipts_is_a_lost_range(plan: Plan, journal: Journal) -> None:
    unit = plan.units[0]
    journal.record(receipt(plan, 0, "ours"))
    states: dict[str, ShardState | None] = {shard.file: ShardState(False, {}) for shard in plan.shards}
    file = plan.shards[unit.shard].file
    states[file] = ShardState(False, {plan.parts[unit.id][0]: ["theirs", "ours"]})
    assert set(journal.surviving(plan, Held(states), pytest.fail)) == {unit.id}  # type: ignore[arg-type]
    states[file] = ShardState(False, {plan.parts[unit.id][0]: ["theirs"]})
    assert journal.surviving(plan, Held(states), pytest.fail) == {}  # type: ignore[arg-type]


def test_a_finished_shard_that_lacks_a_receipt_is_removed_and_written_anew(plan: Plan, journal: Journal) -> None:
    states: dict[str, ShardState | None] = {shard.file: None for shard in plan.shards}
    file = plan.shards[0].file
    states[file] = ShardState(True)
    removed = []

    def remove(name: str) -> None:
        removed.append(name)
        states[name] = None

    assert journal.surviving(plan, Held(states), remove) == {}  # type: ignore[arg-type]
    assert removed == [file]


def test_failures_come_back_and_read_as_a_line(journal: Journal) -> None:
    record: FailureRecord = {"error": "no room", "attempts": 3, "node": "n1", "device": "cpu", "tensors": ["a", "b"]}
    assert journal.failures() == {}
    journal.record_failures({"unit 000001": record})
    assert journal.failures() == {"unit 000001": record}
    assert describe_failure("unit 000001", record) == "  unit 000001 (a and 1 more) on n1 (cpu), 3 attempts: no room"
    alone: FailureRecord = {"error": "no", "attempts": 1, "node": "", "device": "cpu", "tensors": []}
    assert describe_failure("shard 1", alone) == "  shard 1 (cpu): no"


@pytest.mark.parametrize("remote", [False, True], ids=["on a disk", "elsewhere"])
def test_clearing_keeps_only_a_lock_that_is_an_object(plan: Plan, journal: Journal, remote: bool) -> None:
    if remote:
        journal = Journal(open_storage(f"memory://{uuid.uuid4().hex}/.svc_dist"))
    journal.record_plan(plan)
    journal.record(receipt(plan, 0))
    journal.storage.put("lock", b"held")
    journal.clear()
    assert journal.storage.names(recursive=True) == (["lock"] if remote else [])  # on a disk the kernel holds it
    journal.storage.clear()
