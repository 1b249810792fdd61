"""The run folder ``<output>/.svc_dist/``: the plan, the receipts, and so what is left to do."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote, unquote

import msgspec

from svc_dist.errors import DamagedInputError, RecipeError, printable
from svc_dist.plan.fingerprint import fingerprint
from svc_dist.plan.model import Plan, Unit
from svc_dist.run_folder.lock import SHORT_DEADLINE
from svc_dist.run_folder.receipt import Receipt
from svc_dist.run_folder.segments.segments import Segments
from svc_dist.run_folder.sound_plan import require_sound
from svc_dist.storage.base import IN_PARALLEL, FileIdentity, Storage, is_inside
from svc_dist.storage.local import remove_tree
from svc_dist.storage.writing.base import LostRangesError, ShardState, Sink

RUN_FOLDER = ".svc_dist"
#: The plans in short, of a run of several documents.
DOCUMENTS_FILE = "documents.json"
_PLAN = "plan.json"
_FAILURES = "failures.json"
_PATHS = "paths.json"
_RECIPE = "recipe.yaml"
_LARGEST, _LARGEST_RECORD = 4 << 30, 64 << 20  # bytes of a plan, and of a smaller file, that are read


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
    about = (
        f" ({printable(tensors[0])}{f' and {len(tensors) - 1} more' if len(tensors) > 1 else ''})" if tensors else ""
    )
    where = f" on {printable(record['node'])}" if record["node"] else ""
    times = f", {record['attempts']} attempts" if record["attempts"] > 1 else ""
    return f"  {printable(name)}{about}{where} ({record['device']}){times}: {record['error']}"


class Journal:
    """Reads and writes one run folder: a storage at ``<output>/.svc_dist``."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.segments = Segments(storage)

    def within(self, seconds: float) -> Journal:
        """The same journal, whose requests end after ``seconds`` at most."""
        return Journal(self.storage.within(seconds))

    def plan(self) -> Plan | None:
        """The plan of the run; None when there is no run. Raises DamagedInputError when it cannot be read."""
        try:
            data = self.storage.get_within(_PLAN, _LARGEST)
            if data is None:
                return None
            plan = Plan.from_json(data)
            if fingerprint(plan) != plan.fingerprint:
                raise ValueError("its fingerprint is not that of its content")
            require_sound(plan)
        except (ValueError, RecursionError, RecipeError, DamagedInputError) as error:
            reason = error.message if isinstance(error, DamagedInputError) else str(error)
            raise DamagedInputError(
                f"the run folder's plan.json cannot be read ({reason})",
                "it was made by another release or damaged; start over with --restart",
            ) from None
        return plan

    def is_there(self) -> bool:
        """Whether the run folder has a plan or those of several documents, readable or not."""
        try:
            return any(self.storage.stat(name) is not None for name in (_PLAN, DOCUMENTS_FILE))
        except DamagedInputError:
            return True

    def is_empty(self) -> bool:
        """Whether the run folder holds nothing."""
        path = self.storage.path
        return not (self.storage.names(recursive=True) if path is None else path.is_dir() and any(path.iterdir()))

    def record_plan(self, plan: Plan) -> None:
        self.storage.put(_PLAN, plan.to_json().encode())

    def record_paths(self, values: Mapping[str, str]) -> None:
        """Record what variables and the date in the recipe's paths stand for, for every later start of the run."""
        if values:
            self.storage.put(_PATHS, json.dumps(values).encode())

    def record_recipe(self, text: str | None) -> None:
        """Record the recipe as the user wrote it, for the model's card, where it was written."""
        if text is not None:
            self.storage.put(_RECIPE, text.encode())

    def recipe(self) -> str | None:
        """The recipe as the user wrote it; None where it was given as data."""
        with contextlib.suppress(ValueError, DamagedInputError):
            data = self.storage.get_within(_RECIPE, _LARGEST_RECORD)
            return None if data is None else data.decode()
        return None

    def paths(self) -> dict[str, str]:
        """The recorded values; none where there are none, or no run."""
        with contextlib.suppress(ValueError, RecursionError, DamagedInputError):
            data = self.storage.get_within(_PATHS, _LARGEST_RECORD) if self.is_there() else None
            return {} if data is None else msgspec.json.decode(data, type=dict[str, str])
        return {}

    def record(self, receipt: Receipt) -> None:
        """Record a unit whose range is durable. Recording it again is harmless."""
        self.storage.put(f"receipts/{receipt.unit}.json", receipt.to_json())

    def receipts(
        self, plan: Plan, number: int | None = None, known: Mapping[str, Receipt] | None = None
    ) -> dict[str, Receipt]:
        """The receipts of this plan's units, by unit; ``number``: only of this shard's.

        Unreadable ones, and those of another unit or plan than their names say, count as missing. ``known``: receipts
        that need not be read (without it, of the whole plan the copies in the segments), but count only while their
        files are there.
        """
        if known is None:
            copies = self.segments.read() if number is None else {}
            known = {receipt.unit: receipt for receipts in copies.values() for receipt in receipts}
        units = [unit.id for unit in (plan.units if number is None else plan.shard_units[number])]
        existing = self.storage.existing("receipts", [f"{unit}.json" for unit in units])
        units = [unit for unit in units if f"{unit}.json" in existing]
        receipts = {unit: known.get(unit) for unit in units}
        unread = [unit for unit, one in receipts.items() if one is None or not one.proves(plan, unit)]
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            receipts |= zip(unread, pool.map(self._receipt, unread), strict=True)
        return {unit: one for unit, one in receipts.items() if one is not None and one.proves(plan, unit)}

    def _receipt(self, unit: str) -> Receipt | None:
        with contextlib.suppress(ValueError, RecursionError, DamagedInputError):
            return Receipt.from_json(self.storage.get_within(f"receipts/{unit}.json", _LARGEST_RECORD) or b"")
        return None

    def drop(self, units: Iterable[str]) -> None:
        """Remove the receipts of units, so that these run again."""
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            list(pool.map(self.storage.delete, [f"receipts/{unit}.json" for unit in units]))

    def record_shard(self, shard: FileIdentity) -> None:
        """Record the identity of a finished shard, by which a later start knows that nothing has changed it."""
        self.storage.put(_record_of(shard), msgspec.json.encode(shard))

    def recorded_shards(self) -> list[str]:
        """The names of the finished shards that were recorded."""
        names = [unquote(name.removesuffix(".json")) for name in self.storage.names("shards")]
        return [name for name in names if is_inside(name)]

    def is_recorded(self, shard: FileIdentity) -> bool:
        """Whether a finished shard is still the one that was recorded."""
        with contextlib.suppress(DamagedInputError):
            return self.storage.get_within(_record_of(shard), _LARGEST_RECORD) == msgspec.json.encode(shard)
        return False

    def tokens(self, plan: Plan, number: int, known: Mapping[str, Receipt] | None = None) -> list[list[str]]:
        """The sink's tokens for the parts of a shard, in order, for each result. ``known``: see ``receipts``.

        Raises LostRangesError when a unit of the shard has no receipt.
        """
        receipts = self.receipts(plan, number, known)
        units = [unit.id for unit in plan.shard_units[number]]
        missing = [unit for unit in units if unit not in receipts]
        if missing:
            raise LostRangesError(f"the receipt of unit {missing[0]} is gone: another program removed it")
        return [
            [token for unit in units for token in receipts[unit].ranges[result].tokens]
            for result in range(len(plan.results))
        ]

    def surviving(
        self,
        plan: Plan,
        sink: Sink,
        remove: Callable[[str], None],
        number: int | None = None,
        known: Mapping[str, Receipt] | None = None,
    ) -> dict[str, Receipt]:
        """The receipts whose ranges the sink still has, after deletion of the others. ``number``: only of this shard's.

        ``remove`` deletes a finished shard that lacks a receipt: no range can be written into it. ``known``: see
        ``receipts``.
        """
        self._make_way()
        receipts = self.receipts(plan, number, known)
        units = plan.units if number is None else plan.shard_units[number]
        shards = range(len(plan.shards)) if number is None else plan.shards_of(number)
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            states = dict(zip(shards, pool.map(lambda shard: sink.state(plan.shards[shard]), shards), strict=True))
        while True:
            lost = [unit.id for unit in units if unit.id in receipts and not _written(plan, unit, receipts, states)]
            self.drop(lost)
            for unit in lost:
                del receipts[unit]
            undone = {shard for unit in units if unit.id not in receipts for shard in plan.shards_of(unit.shard)}
            closed = [shard for shard in sorted(undone) if (state := states[shard]) is not None and state.finished]
            if not closed:
                return receipts
            for shard in closed:
                remove(plan.shards[shard].file)
                states[shard] = sink.state(plan.shards[shard])

    def record_failures(self, failures: dict[str, FailureRecord]) -> None:
        self.within(SHORT_DEADLINE).storage.put(_FAILURES, json.dumps(failures).encode())

    def failures(self) -> dict[str, FailureRecord]:
        """The permanent failures when the run last ended."""
        with contextlib.suppress(ValueError, RecursionError, DamagedInputError):
            data = self.storage.get_within(_FAILURES, _LARGEST_RECORD)
            return {} if data is None else msgspec.json.decode(data, type=dict[str, FailureRecord])
        return {}

    def _make_way(self) -> None:
        """Remove folders from where receipts go: a file replaces anything else."""
        if self.storage.path is not None:
            with contextlib.suppress(OSError), os.scandir(self.storage.path / "receipts") as entries:
                for entry in [entry for entry in entries if entry.is_dir()]:
                    remove_tree(Path(entry.path))

    def clear(self) -> None:
        self.storage.clear(keep=("lock",))


def _written(plan: Plan, unit: Unit, receipts: Mapping[str, Receipt], states: Mapping[int, ShardState | None]) -> bool:
    """Whether the storage has a unit's range in every result, as the unit's receipt says."""
    first, count = plan.parts[unit.id][0], len(plan.parts[unit.id][1])
    written = zip(plan.shards_of(unit.shard), receipts[unit.id].ranges, strict=True)
    return all(_has_parts(states[shard], first, count, each.tokens) for shard, each in written)


def _has_parts(state: ShardState | None, first_part: int, count: int, tokens: Sequence[str]) -> bool:
    """Whether a shard has ``count`` parts with these tokens, numbered from ``first_part`` on."""
    if state is None or state.finished or state.tokens is None:
        return state is not None
    held = (token in state.tokens.get(number, ()) for number, token in enumerate(tokens, first_part))
    return len(tokens) == count and all(held)


def _record_of(shard: FileIdentity) -> str:
    return f"shards/{quote(shard.name, safe='')}.json"  # without sub-folders, also for a shard in a folder
