"""The language model's results as one small file, for programs that choose methods by them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.quality import results
from benchmarks.quality.lm import inspection
from benchmarks.quality.lm.data import TASKS
from benchmarks.quality.lm.grid import GRID, NORM_MATCHED, groups
from benchmarks.quality.lm.places import ABILITIES, place
from benchmarks.quality.lm.tables import Results
from benchmarks.quality.results import accuracy, difference
from benchmarks.quality.variants import Variant


def write_record(found: Results, file: Path) -> None:
    """Write every case that was measured: its rows with scores in percent, and what inspection shows of its sets."""
    cases = [_case(found, kind, count) for kind, count in found.cases]
    content = {"base": "SmolLM2-135M-Instruct", "tasks": list(TASKS), "cases": cases}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _case(found: Results, kind: str, count: int) -> dict[str, Any]:
    names = list(TASKS)[:count]
    base = found.base()
    folders = {seed: place(found.work, seed, kind, count).folder / inspection.FILE for seed in found.seeds}
    return {
        "experts": kind,
        "count": count,
        "base": round(accuracy({name: base[name] for name in names}), 2),
        "alone": found.experts(kind, count),
        "inspection": {seed: json.loads(file.read_text("utf-8")) for seed, file in folders.items() if file.exists()},
        "rows": [_row(found, kind, count, variant) for variant in found.rows(kind, count).values()],
    }


def _row(found: Results, kind: str, count: int, variant: Variant) -> dict[str, Any]:
    seeds = found.seeds_of(variant, kind, count)
    scores = found.of(variant, kind, count, seeds)
    abilities = found.of(variant, kind, count, seeds, ABILITIES)
    reference = found.rows(kind, count).get("task arithmetic")
    shared = [] if reference is None else [s for s in seeds if s in found.seeds_of(reference, kind, count)]
    row: dict[str, Any] = {
        "row": variant.family,
        "merge_method": variant.method,
        "parameters": variant.given,
        "calibrate": variant.calibration,
        "score": {seed: round(accuracy(entry), 2) for seed, entry in zip(seeds, scores, strict=True)},
        "by_task": {
            task: round(100 * statistics.fmean(statistics.fmean(e[task]) for e in scores), 2) for task in scores[0]
        },
        "abilities": {
            name: round(statistics.fmean(statistics.fmean(e[name]) for e in abilities), 4) for name in abilities[0]
        },
        "validation": _validation(found, kind, count, variant),
    }
    if variant.family == NORM_MATCHED.family:
        row["parameters"] = {}  # a scale for each matrix
    if reference is not None and shared and variant != reference:
        gain = difference(found.of(variant, kind, count, shared), found.of(reference, kind, count, shared))
        row["over_task_arithmetic"] = [round(value, 2) for value in (gain.mean, gain.low, gain.high)]
    return row


def _validation(found: Results, kind: str, count: int, variant: Variant) -> list[dict[str, Any]]:
    """The settings of a row with their scores on validation items."""
    row = next((group for group in groups(GRID) if group[0].family == variant.family), [])
    files = [(one, place(found.work, 0, kind, count).file(one, "validation")) for one in row]
    return [
        {
            "parameters": one.given,
            "calibrate": one.calibration,
            "score": round(accuracy(results.read(file)), 2),
        }
        for one, file in files
        if file.exists()
    ]
