"""The steps of the language model's benchmark. Each computes only the results that the work folder lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality.lm import stored
from benchmarks.quality.lm.base import base_model
from benchmarks.quality.lm.data import TASKS, prepare, read
from benchmarks.quality.lm.grid import ALONE, groups
from benchmarks.quality.lm.kinds import KINDS
from benchmarks.quality.lm.places import ABILITIES, evaluator, experts_folder
from benchmarks.quality.lm.rows import PARTS, measure_row
from benchmarks.quality.lm.training import Budget, train
from benchmarks.quality.merging import Place, measure
from benchmarks.quality.processes import together
from benchmarks.quality.results import write
from benchmarks.quality.variants import Variant

STEPS = 60


def prepare_data(work: Path) -> None:
    for name in (*TASKS, ABILITIES):
        prepare(name, work)


def train_experts(work: Path, seed: int, kind: str, count: int, processes: int) -> None:
    """Train those of the first ``count`` experts that are missing."""
    wanted = [name for name in list(TASKS)[:count] if not _trained(work, seed, kind, name).exists()]
    together(_train, [(work, seed, kind, name) for name in wanted], processes)


def _trained(work: Path, seed: int, kind: str, name: str) -> Path:
    return experts_folder(work, seed, kind) / "experts" / name


def _train(work: Path, seed: int, kind: str, name: str) -> None:
    train(
        base_model(work), read(name, work)["train"], KINDS[kind], seed, Budget(STEPS),
        _trained(work, seed, kind, name), f"{name}, {kind}, seed {seed}", list(TASKS).index(name),
    )  # fmt: skip


def answer_base(work: Path) -> None:
    """Write the base's scores on every task, and on what it can do."""
    for part in PARTS:
        target = work / "base" / part / "base.json"
        if not target.exists():
            write(target, evaluator(work).answers(base_model(work), part, list(TASKS)))


def answer_alone(work: Path, seed: int, kind: str, count: int, processes: int) -> None:
    """Write the scores of each expert, merged alone into the base, on its own task, and on what the base can do."""
    together(_answer_alone, [(work, seed, kind, name) for name in list(TASKS)[:count]], processes)


def _answer_alone(work: Path, seed: int, kind: str, name: str) -> None:
    folder = experts_folder(work, seed, kind)
    where = Place(base_model(work), folder / "alone" / name, (name,), (folder / "experts" / name,))
    measure([ALONE], where, evaluator(work), PARTS)


def merge_rows(work: Path, seed: int, kind: str, count: int, grid: Sequence[Variant], processes: int) -> None:
    """Measure rows of the tables, with the experts that they need."""
    train_experts(work, seed, kind, count, processes)
    answer_alone(work, seed, kind, count, processes)
    together(measure_row, [(work, seed, kind, count, row) for row in groups(grid)], processes)


def merge_quantised(work: Path, kind: str, count: int, processes: int) -> None:
    """Measure merges of base and experts that are stored in codes."""
    together(stored.measure_format, [(work, kind, count, name) for name in stored.FORMATS], processes)


def write_tables(work: Path, seeds: Sequence[int], docs: Path) -> None:
    """Write the tables of what has been measured, into the work folder and into the marked places of the page; the
    figure, the record, and the scores of every item."""
    from benchmarks.quality.lm import figures, record, scores, tables

    found = tables.Results(work, seeds)
    figures.draw(found, docs / "figures")
    tables.write_tables(found, work / "tables.md", docs / "choosing.md")
    record.write_record(found, Path(__file__).with_name("results.json"))
    scores.pack(work)
