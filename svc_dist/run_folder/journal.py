"""The run folder ``<output>/.svc_dist/``: the plan, the receipts, and so what is left to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from svc_dist.errors import DamagedInputError, RecipeError
from svc_dist.plan.model import Plan
from svc_dist.run_folder.lock import SHORT_DEADLINE
from svc_dist.run_folder.receipt import Receipt
from svc_dist.storage.base import IN_PARALLEL, Storage
from svc_dist.storage.writing.base import LostRangesError, ShardState, Sink

RUN_FOLDER = ".svc_dist"
_PLAN = "plan.json"
_FAILURES = "failures.json"


class FailureRecord(TypedDict):
    """A permanent failure: its last error, the attempts, where the last one ran, and the tensors that it concerns."""

    error: str
    attempts: int
    node: str
    device: str
    tensors: list[str]


def describe_failure(name: str, record: FailureRecord) -> str:
    """The failure in a line."""
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
        """Whether the run folder has a plan."""
        return self.storage.get(_PLAN) is not None

    def is_empty(self) -> bool:
        """Whether the run folder holds no file."""
        return not self.storage.names(recursive=True)

    def record_plan(self, plan: Plan) -> None:
        self.storage.put(_PLAN, plan.to_json().encode())

    def record(self, receipt: Receipt) -> None:
        """Record a unit whose range is durable. Recording it again is harmless."""
        self.storage.put(f"receipts/{receipt.unit}.json", receipt.to_json())

    def receipts(self, plan: Plan, number: int | None = None) -> dict[str, Receipt]:
        """The receipts of this plan's units, by unit; ``number``: only of this shard's.

        Others, and unreadable ones, count as missing.
        """
        names = [f"{unit.id}.json" for unit in plan.units if unit.shard == number]
        if number is None:
            names = self.storage.names("receipts")
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            contents = list(pool.map(lambda name: self.storage.get(f"receipts/{name}"), names))
        receipts: dict[str, Receipt] = {}
        for data in contents:
            try:
                receipt = Receipt.from_json(data or b"")
            except ValueError:
                continue
            if receipt.fingerprint == plan.fingerprint and receipt.unit in plan.unit:
                receipts[receipt.unit] = receipt
        return receipts

    def tokens(self, plan: Plan, number: int) -> list[list[str]]:
        """The sink's tokens for the parts of a shard, in order, for each result.

        Raises LostRangesError when a unit of the shard has no receipt.
        """
        receipts = self.receipts(plan, number)
        units = [unit.id for unit in plan.units if unit.shard == number]
        missing = [unit for unit in units if unit not in receipts]
        if missing:
            raise LostRangesError(f"the receipt of unit {missing[0]} is gone: another program removed it")
        return [
            [token for unit in units for token in receipts[unit].ranges[result].tokens]
            for result in range(len(plan.results))
        ]

    def surviving(
        self, plan: Plan, sink: Sink, remove: Callable[[str], None], number: int | None = None
    ) -> dict[str, Receipt]:
        """The receipts whose ranges the sink still has, after deletion of the others. ``number``: only of this shard's.

        ``remove`` deletes a finished shard that lacks a receipt: no range can be written into it.
        """
        receipts = self.receipts(plan, number)
        units = [unit for unit in plan.units if number is None or unit.shard == number]
        shards = range(len(plan.shards)) if number is None else plan.shards_of(number)
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            states = dict(zip(shards, pool.map(lambda shard: sink.state(plan.shards[shard]), shards), strict=True))
        while True:
            for unit in units:
                if unit.id in receipts:
                    written = zip(plan.shards_of(unit.shard), receipts[unit.id].ranges, strict=True)
                    first_part = plan.parts[unit.id][0]
                    if not all(_has_parts(states[shard], first_part, each.tokens) for shard, each in written):
                        self.storage.delete(f"receipts/{unit.id}.json")
                        del receipts[unit.id]
            undone = {shard for unit in units if unit.id not in receipts for shard in plan.shards_of(unit.shard)}
            closed = [shard for shard in sorted(undone) if (state := states[shard]) is not None and state.finished]
            if not closed:
                return receipts
            for shard in closed:
                remove(plan.shards[shard].file)
                states[shard] = sink.state(plan.shards[shard])

    def record_failures(self, failures: dict[str, FailureRecord]) -> None:
        self.storage.within(SHORT_DEADLINE).put(_FAILURES, json.dumps(failures).encode())

    def failures(self) -> dict[str, FailureRecord]:
        """The permanent failures when the run last ended."""
        data = self.storage.get(_FAILURES)
        return dict(json.loads(data)) if data else {}

    def clear(self) -> None:
        self.storage.clear(keep=("lock",))


def _has_parts(state: ShardState | None, first_part: int, tokens: Sequence[str]) -> bool:
    """Whether a shard has the parts with these tokens, numbered from ``first_part`` on."""
    if state is None or state.finished or state.tokens is None:
        return state is not None
    return all(token in state.tokens.get(number, ()) for number, token in enumerate(tokens, first_part))
