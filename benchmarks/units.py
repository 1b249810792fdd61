"""What a run's driver spends on a unit, and how long a start takes that finds many receipts. No arithmetic is done.

    python benchmarks/units.py                 # the driver: 100,000 units on 64 nodes
    python benchmarks/units.py --resume DISK   # receipts in a folder
    python benchmarks/units.py --resume s3://bucket/prefix --endpoint-url http://127.0.0.1:9000

The driver's executor is a fake one: whatever it is given is done immediately, one event at a time, in no order. So the
figures are the schedule's, the placement's, the journal's, the progress's and the loop's own.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from svc_dist.plan.model import Plan, Result, Unit
from svc_dist.plan.settings import Settings
from svc_dist.run.loop import drive
from svc_dist.run.options import Limits
from svc_dist.run.placement import AHEAD, Node
from svc_dist.run.progress import Progress
from svc_dist.run.schedule import Done, Event, Instruction, RunUnit, Schedule
from svc_dist.run_folder.journal import Journal
from svc_dist.run_folder.lock import Lock
from svc_dist.run_folder.receipt import Receipt, WrittenRange
from svc_dist.run_folder.segments.ledger import Ledger
from svc_dist.storage.access import Access, ClientOptions
from svc_dist.storage.local import LocalStorage
from svc_dist.storage.open import open_storage
from svc_dist.storage.writing.base import ShardFile, ShardState

_SIZE = 64 << 20  # bytes of a unit's range
_PER_SHARD = 80


def plan_of(count: int, needs: int) -> Plan:
    """A plan of ``count`` units, which need one of so many amounts of memory."""
    rng = random.Random(1)
    amounts = [rng.randrange(1 << 28, 1 << 30) for _ in range(needs)]
    units = []
    for number in range(count):
        shard, place = divmod(number, _PER_SHARD)
        memory = rng.choice(amounts)
        start = place * _SIZE
        units.append(
            Unit(f"{number:06d}", shard, start, start + _SIZE, (), 4 * _SIZE, _SIZE, 1e9 * memory / (1 << 30), memory)
        )
    shards = -(-count // _PER_SHARD)
    files = tuple(ShardFile(f"model-{number:05d}.safetensors", _PER_SHARD * _SIZE) for number in range(shards))
    return Plan(
        "f" * 64, {}, Settings(device="cpu"), (), (Result("", ()),), files, (), (), tuple(units), (), {}
    )  # fmt: skip


def receipt_of(plan: Plan, unit: Unit) -> Receipt:
    """What a unit of an expert's matrix leaves: its parts, and the summary of one decomposition."""
    tokens = tuple(f'"{number:032x}"' for number in range(len(plan.parts[unit.id][1])))
    summary = {
        "tensor": f"model.layers.{unit.id}.mlp.experts.17.down_proj.weight",
        "shape": [2048, 7168],
        "kept_rank": 512,
        "energy": 0.98765432,
        **{f"figure_{number}": number / 7 for number in range(16)},
    }
    delta = {"tensor": summary["tensor"], "gram": [number / 3 for number in range(10)], "entries": 262144}
    written = WrittenRange(f"xxh3_128:{int(unit.id):032x}", tokens, [summary])
    seconds = {"read": 0.123456789, "compute": 1.23456789, "write": 0.23456789}
    return Receipt(
        unit.id, plan.fingerprint, (written,), unit.bytes_in, unit.bytes_out, seconds, "host", "cpu", 0, [delta]
    )


class Immediate:
    """An executor that has done everything as soon as it is asked, and reports one event at a time."""

    name = "immediate"

    def __init__(self, plan: Plan, nodes: Mapping[str, Node]) -> None:
        self.nodes, self._plan = nodes, plan
        self._flying: list[Instruction] = []
        self._rng = random.Random(2)

    def submit(self, instruction: Instruction) -> None:
        self._flying.append(instruction)

    def abandon(self, instruction: Instruction) -> bool:
        return True

    def wait(self, timeout: float) -> list[Event]:
        place = self._rng.randrange(len(self._flying))
        self._flying[place], self._flying[-1] = self._flying[-1], self._flying[place]
        instruction = self._flying.pop()
        unit = self._plan.unit[instruction.unit] if isinstance(instruction, RunUnit) else None
        return [Done(instruction, None if unit is None else receipt_of(self._plan, unit))]

    def close(self) -> None: ...


class _Free:
    def require_held(self) -> None: ...


def driver(options: argparse.Namespace) -> None:
    """Milliseconds a unit of the whole loop, with the executor's own subtracted."""
    bounds = (("slots bound", 1 << 50, 0), ("memory bound", options.slots << 28, 0), ("reading ahead", 1 << 50, AHEAD))
    for what, memory, ahead in bounds:
        for count in (options.units // 10, options.units):
            plan = plan_of(count, options.needs)
            nodes = {
                f"node{number:02d}": Node(options.slots, memory, ahead=ahead * options.slots)
                for number in range(options.nodes)
            }
            began = time.process_time()
            for unit in plan.units:
                receipt_of(plan, unit)
            own = time.process_time() - began
            with tempfile.TemporaryDirectory() as folder:
                profile = cProfile.Profile() if options.profile else None
                began = time.process_time()
                if profile is not None:
                    profile.enable()
                _drive(plan, nodes, Path(folder))
                if profile is not None:
                    profile.disable()
                spent = time.process_time() - began - own
            print(f"{what}: {count:,} units, {options.nodes} nodes: {1e3 * spent / count:.3f} ms of CPU a unit")
            if profile is not None:
                pstats.Stats(profile).sort_stats("tottime").print_stats(14)


def _drive(plan: Plan, nodes: Mapping[str, Node], folder: Path) -> None:
    schedule = Schedule(plan, nodes)
    journal = Journal(LocalStorage(str(folder)))
    lock: Lock = _Free()  # type: ignore[assignment]
    with Progress(plan, (), False) as progress, Ledger(journal, plan) as ledger:
        drive(schedule, Immediate(plan, nodes), progress, ledger, Limits(), lock)


class _Whole:
    """A sink whose storage has every part."""

    memory = 0
    self_proving = True

    def __init__(self, plan: Plan) -> None:
        self._parts = {shard.file: {} for shard in plan.shards}
        for unit in plan.units:
            first, sizes = plan.parts[unit.id]
            for number in range(len(sizes)):
                self._parts[plan.shards[unit.shard].file][first + number] = [f'"{number:032x}"']

    def state(self, shard: ShardFile) -> ShardState:
        return ShardState(False, self._parts[shard.file])


def resume(options: argparse.Namespace) -> None:
    """Leave receipts as the workers and the driver of a run do, then measure what the next start does with them."""
    access = Access({"": ClientOptions(endpoint_url=options.endpoint_url)})
    journal = Journal(open_storage(f"{options.resume}/.svc_dist", access))
    plan = plan_of(options.units, options.needs)
    with Ledger(journal, plan) as ledger, timed(f"{len(plan.units):,} receipts recorded, each as its unit ends"):

        def leave(unit: Unit) -> Receipt:
            receipt = receipt_of(plan, unit)
            journal.record(receipt)
            return receipt

        with ThreadPoolExecutor(16) as pool:
            for receipt in pool.map(leave, plan.units):
                ledger.add(receipt)
    with timed("their names listed"):
        journal.storage.names("receipts")
    for what in ("as a run leaves it", "again, with their segments removed", "and again after that"):
        if "removed" in what:
            journal.storage.sub("segments").clear()
        with Ledger(journal, plan) as ledger, timed(f"a start, {what}"):
            assert len(ledger.resume(_Whole(plan), _refuse)) == len(plan.units)
    with timed("a shard's tokens, as the driver passes them"):
        journal.tokens(plan, 0, ledger.of(0))
    with timed("all receipts, for the report"):
        journal.receipts(plan)
    with timed("the run folder removed"):
        journal.clear()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long it takes."""
    began, cpu = time.monotonic(), time.process_time()
    yield
    print(f"{what}: {time.monotonic() - began:.2f} s, {time.process_time() - cpu:.2f} s of CPU", flush=True)


def _refuse(name: str) -> None:
    raise AssertionError(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--slots", type=int, default=16, help="of each node")
    parser.add_argument("--needs", type=int, default=40, help="how many different amounts of memory units need")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--resume", metavar="OUTPUT", help="measure a start that finds receipts in this empty place")
    parser.add_argument("--endpoint-url")
    chosen = parser.parse_args()
    resume(chosen) if chosen.resume else driver(chosen)
