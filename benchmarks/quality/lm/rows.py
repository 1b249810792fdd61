"""Rows of the tables: a row's settings are merged in one pass, and the best on validation items is scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.quality.lm.grid import GRID, NORM_MATCHED, PLAIN_SUM, SVC, groups, norm_ratios
from benchmarks.quality.lm.inspection import FILE as INSPECTION
from benchmarks.quality.lm.inspection import write_inspection
from benchmarks.quality.lm.places import ABILITIES, evaluator, place
from benchmarks.quality.merging import Place, measure, merge, outputs, summary
from benchmarks.quality.results import choose, write
from benchmarks.quality.variants import Variant

PARTS = ("test", ABILITIES)


def chosen(work: Path, kind: str, count: int, grid: Sequence[Variant] = GRID) -> list[Variant]:
    """For each row of the tables, the best setting on the first seed's validation items."""
    folder = place(work, 0, kind, count).folder
    best = (_best(row, folder) for row in groups(grid))
    return [variant for variant in best if variant is not None]


def _best(row: Sequence[Variant], folder: Path) -> Variant | None:
    return row[0] if len(row) == 1 else choose(row, folder)


def measure_row(work: Path, seed: int, kind: str, count: int, row: Sequence[Variant]) -> None:
    """Write what is missing of a row: scores of its settings on validation items, and those of the best one.

    Only the first seed chooses; the others use its choice. Only the settings' scores stay, no weights.
    """
    where, first = place(work, seed, kind, count), place(work, 0, kind, count)
    folder, _ = outputs(row, where)
    merged: dict[str, Path] = {}
    if seed == 0 and len(row) > 1 and not all(first.file(variant, "validation").exists() for variant in row):
        merged = {variant.name: output for variant, output in zip(row, merge(row, where), strict=True)}
        for variant in row:
            file = where.file(variant, "validation")
            if not file.exists():
                write(file, evaluator(work).answers(merged[variant.name], "validation", where.tasks))
    best = _best(row, first.folder)
    if best is None:
        raise ValueError(f"{first.folder} has no validation scores of {row[0].family}: measure the first seed before")
    scales = where.folder / "norm_ratios" / f"{best.name}.json"
    is_calibrated_sum = best.method == PLAIN_SUM.method and best.alpha is not None and not best.then
    if row[0].name == SVC[0].name and SVC[0].name in merged:
        write_inspection(where, merged[SVC[0].name])
    complete = all(where.file(best, part).exists() for part in PARTS)
    if is_calibrated_sum:
        complete = complete and scales.exists() and (where.folder / INSPECTION).exists()
    if not complete:
        output = merged.get(best.name) or merge([best], where)[0]
        write(where.folder / "reports" / f"{best.name}.json", summary(output))
        for part in PARTS:
            if not where.file(best, part).exists():
                write(where.file(best, part), evaluator(work).answers(output, part, where.tasks))
        if is_calibrated_sum:
            _write_norm_ratios(where, output, scales)
            write_inspection(where, output if best.name == SVC[0].name else None)
    for used in (folder, outputs([best], where)[0]):
        shutil.rmtree(used, ignore_errors=True)
    if is_calibrated_sum:
        ratios: dict[str, float] = json.loads(scales.read_text(encoding="utf-8"))
        measure([replace(NORM_MATCHED, scales=ratios)], where, evaluator(work), PARTS)


def _write_norm_ratios(where: Place, calibrated: Path, file: Path) -> None:
    (plain,) = merge([PLAIN_SUM], where)
    write(file, norm_ratios(where.base, calibrated, plain))
    shutil.rmtree(plain)
