"""The run folder ``<output>/.svc_dist/``: the plan, the receipts, and so what is left to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from svc_dist.errors import DamagedInputError, RecipeError, StorageError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.lock import SHORT_DEADLINE
from svc_dist.run_folder.receipt import Receipt
from svc_dist.storage.base import Storage
from svc_dist.storage.writing.base import ShardState, Sink

RUN_FOLDER = ".svc_dist"
_PLAN = "plan.json"
_FAILURES = "failures.json"
_IN_PARALLEL = 16  # small files read in parallel


class FailureRecord(TypedDict):
    """What failed for good: its last error, how many attempts there were, where the last was, and what it is about."""

    error: str
    attempts: int
    node: str
    device: str
    tensors: list[str]


def describe_failure(name: str, record: FailureRecord) -> str:
    """A line or two for a person."""
    tensors = record["tensors"]
    about = f" ({tensors[0]}{f' and {len(tensors) - 1} more' if len(tensors) > 1 else ''})" if tensors else ""
    where = f" on {record['node']}" if record["node"] else ""
    times = f", {record['attempts']} attempts" if record["attempts"] > 1 else ""
    return f"  {name}{about}{where} ({record['device']}){times}: {record['error']}"


class Journal:
    """Reads and writes one run folder: a storage at ``<output>/.svc_dist``."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def plan(self) -> Plan | None:
        """The plan of the run; None when there is no run. Raises DamagedInputError when it cannot be read."""
        data = self.storage.get(_PLAN)
        if data is None:
            return None
        try:
            return Plan.from_json(data)
        except (ValueError, RecipeError) as error:
            raise DamagedInputError(
                f"the run folder's plan.json cannot be read ({error})",
                "it was made by another release or damaged; start over with --restart",
            ) from None

    def is_there(self) -> bool:
        """Whether a run folder with a plan is there."""
        return self.storage.get(_PLAN) is not None

    def is_empty(self) -> bool:
        """Whether the run folder holds no file."""
        return not self.storage.names(recursive=True)

    def record_plan(self, plan: Plan) -> None:
        self.storage.put(_PLAN, plan.to_json().encode())

    def record(self, receipt: Receipt) -> None:
        """Record a unit whose range is durable. Recording it again is harmless."""
        self.storage.put(f"receipts/{receipt.unit}.json", receipt.to_json())

    def receipts(self, plan: Plan) -> dict[str, Receipt]:
        """The receipts of this plan's units, by unit. Others, and unreadable ones, count as not there."""
        found: dict[str, Receipt] = {}
        names = self.storage.names("receipts")
        with ThreadPoolExecutor(_IN_PARALLEL) as pool:
            contents = list(pool.map(lambda name: self.storage.get(f"receipts/{name}"), names))
        for data in contents:
            try:
                receipt = Receipt.from_json(data or b"")
            except ValueError:
                continue
            if receipt.fingerprint == plan.fingerprint and receipt.unit in plan.unit:
                found[receipt.unit] = receipt
        return found

    def tokens(self, plan: Plan, shard: int) -> list[str]:
        """What the sink gave for each part of a shard, in order, all of whose units have receipts."""
        result, number = divmod(shard, plan.count)
        units = [unit.id for unit in plan.units if unit.shard == number]
        with ThreadPoolExecutor(_IN_PARALLEL) as pool:
            contents = list(pool.map(lambda unit: self.storage.get(f"receipts/{unit}.json"), units))
        missing = [unit for unit, data in zip(units, contents, strict=True) if data is None]
        if missing:
            raise StorageError(
                f"the receipt of unit {missing[0]} is gone",
                "something else removed it; run the same command again to repeat its unit",
            )
        return [token for data in contents for token in Receipt.from_json(data or b"").ranges[result].tokens]

    def lost(self, plan: Plan, shard: int, sink: Sink) -> list[str]:
        """The units of a shard whose ranges the sink does not hold."""
        held = sink.state(plan.shards[shard])
        receipts = self.receipts(plan)
        result, number = divmod(shard, plan.count)
        units = [unit.id for unit in plan.units if unit.shard == number]
        return [unit for unit in units if not _holds(held, plan.parts[unit][0], receipts.get(unit), result)]

    def surviving(self, plan: Plan, sink: Sink, remove: Callable[[str], None]) -> dict[str, Receipt]:
        """The receipts whose ranges the sink still holds; the others are dropped.

        A finished shard that lacks one is made anew, since no range can be written into it: ``remove`` takes it away.
        """
        receipts = self.receipts(plan)
        with ThreadPoolExecutor(_IN_PARALLEL) as pool:
            held = list(pool.map(sink.state, plan.shards))
        for unit in plan.units:
            receipt, first_part = receipts.get(unit.id), plan.parts[unit.id][0]
            there = [held[shard] for shard in plan.written(unit)]
            if receipt is None or all(_holds(one, first_part, receipt, n) for n, one in enumerate(there)):
                continue
            self.storage.delete(f"receipts/{unit.id}.json")
            del receipts[unit.id]
        undone = {shard for unit in plan.units if unit.id not in receipts for shard in plan.written(unit)}
        closed = [plan.shards[shard].file for shard in sorted(undone) if (one := held[shard]) and one.finished]
        for file in closed:
            remove(file)
        return self.surviving(plan, sink, remove) if closed else receipts

    def record_failures(self, failures: dict[str, FailureRecord]) -> None:
        self.storage.within(SHORT_DEADLINE).put(_FAILURES, json.dumps(failures).encode())

    def failures(self) -> dict[str, FailureRecord]:
        """What failed for good when the run last ended."""
        data = self.storage.get(_FAILURES)
        return dict(json.loads(data)) if data else {}

    def clear(self) -> None:
        self.storage.clear(keep=("lock",))


def _holds(state: ShardState | None, first_part: int, receipt: Receipt | None, result: int) -> bool:
    if state is None or receipt is None:
        return False
    if state.finished or state.tokens is None:
        return True
    tokens = receipt.ranges[result].tokens
    return all(token in state.tokens.get(first_part + place, ()) for place, token in enumerate(tokens))
