"""The tables of ``docs/choosing.md``, as Markdown, from the results in the work folder."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.quality import results
from benchmarks.quality.data import TASKS
from benchmarks.quality.results import Answers, Difference, accuracy, difference
from benchmarks.quality.steps import place
from benchmarks.quality.variants import (
    ALPHAS,
    GRID,
    MATRICES_SCALED,
    NORM_MATCHED,
    SCALED,
    SWUDI,
    SWUDI_A,
    TASK_SCALES,
    TSV_M_DEFAULT,
    Variant,
)


class Results:
    """Test answers of merges by variant, seed and number of experts.

    ``main``: the number of experts with the most variants; the tables of methods show it.
    """

    def __init__(self, work: Path, seeds: Sequence[int]) -> None:
        self.work = work
        counts = range(len(TASKS), 1, -1)
        self.measured = [count for count in counts if (place(work, 0, count).folder / "test").exists()]
        self.main = max(self.measured, key=lambda n: len(list((place(work, 0, n).folder / "test").glob("*.json"))))
        self.seeds = [s for s in seeds if any((place(work, s, n).folder / "test").exists() for n in self.measured)]

    def of(self, variant: Variant, count: int, seeds: Sequence[int]) -> list[Answers]:
        """A variant's test answers, with one entry per seed."""
        return [results.read(place(self.work, s, count).file(variant, "test")) for s in seeds]

    def seeds_of(self, variant: Variant | None, count: int) -> list[int]:
        """The seeds for which a variant was measured."""
        if variant is None:
            return []
        return [s for s in self.seeds if place(self.work, s, count).file(variant, "test").exists()]

    def mean(self, variant: Variant, count: int) -> float:
        return statistics.fmean(accuracy(a) for a in self.of(variant, count, self.seeds_of(variant, count)))

    def gain(self, one: Variant | None, other: Variant | None, count: int) -> Difference | None:
        """The difference over the seeds for which both were measured; None if there is none."""
        seeds = [s for s in self.seeds_of(one, count) if s in self.seeds_of(other, count)]
        if one is None or other is None or not seeds:
            return None
        return difference(self.of(one, count, seeds), self.of(other, count, seeds))

    def gain_over_base(self, one: Variant, count: int) -> Difference:
        answers = self.of(one, count, self.seeds_of(one, count))
        return difference(answers, [self.base(count)] * len(answers))

    def base(self, count: int) -> Answers:
        answers = results.read(self.work / "base" / "test" / "base.json")
        return {name: answers[name] for name in list(TASKS)[:count]}

    def alone(self, seed: int, count: int) -> Answers:
        """Each of the first ``count`` experts on its own task."""
        folder = self.work / f"seed{seed}" / "alone" / "test"
        return {name: results.read(folder / f"{name}.json")[name] for name in list(TASKS)[:count]}

    def best(self, family: str, alpha: str | None, count: int) -> Variant | None:
        """The best of a family's settings on the first seed's validation texts, among those with test answers."""
        group = [v for v in GRID if (v.family, v.alpha) == (family, alpha) and self.seeds_of(v, count)]
        return group[0] if len(group) == 1 else results.choose(group, place(self.work, 0, count).folder)

    def families(self, count: int) -> list[str]:
        """The families that were measured."""
        return [f for f in dict.fromkeys(v.family for v in GRID) if self.best(f, None, count) is not None]

    def timed(self, variant: Variant) -> dict[str, Any] | None:
        """The report of a merge that ran alone; None if there is none."""
        file = place(self.work, 0, self.main).folder / "timed" / "reports" / f"{variant.name}.json"
        content: dict[str, Any] | None = json.loads(file.read_text("utf-8")) if file.exists() else None
        return content


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def tasks(found: Results) -> str:
    """The tasks, their sizes, and the accuracies of the base and the experts."""
    rows = []
    base = found.base(found.main)
    alone = [found.alone(seed, found.main) for seed in found.seeds]
    for name in base:
        task = TASKS[name]
        parts = json.loads((found.work / "data" / f"{name}.json").read_text("utf-8"))["parts"]
        sizes = " / ".join(f"{len(parts[part]['labels']):,}" for part in ("train", "validation", "test"))
        rows.append([
            f"`{name}`", f"{task.about}; {len(task.prompts)} classes", sizes,
            _percent([base], name), _percent(alone, name), task.source, task.licence,
        ])  # fmt: skip
    header = ["task", "what is classified", "texts (train / validation / test)", "base", "expert", "source", "licence"]
    return table(header, rows)


def _percent(answers: Sequence[Answers], task: str) -> str:
    return f"{statistics.fmean(100 * statistics.fmean(entry[task]) for entry in answers):.1f}"


def methods(found: Results) -> str:
    """Every family with its setting, and the gain from SVC at each alpha."""
    count = found.main
    alone = statistics.fmean(accuracy(found.alone(seed, count)) for seed in found.seeds)
    rows = [
        ["(base)", "", f"{accuracy(found.base(count)):.1f}", "", "", "", ""],
        ["(each expert on its own task)", "", f"{alone:.1f}", "", "", "", str(len(found.seeds))],
    ]
    for family in found.families(count):
        plain = found.best(family, None, count)
        assert plain is not None
        cells = [family, plain.setting, f"{found.mean(plain, count):.1f}"]
        for alpha in ALPHAS:
            best = found.best(family, alpha, count)
            gain = found.gain(best, plain, count)
            other = f"; {best.setting}" if best is not None and best.setting != plain.setting else ""
            cells.append("-" if gain is None else gain.text() + other)
        rows.append([*cells, str(len(found.seeds_of(plain, count)))])
    header = ["method", "setting", "accuracy", *(f"SVC {alpha} adds" for alpha in ALPHAS), "sets of experts"]
    return table(header, rows)


def per_task(found: Results) -> str:
    """Accuracy by task: base, experts and each family, plain and with SVC at 1/K."""
    count = found.main

    def row(name: str, answers: Sequence[Answers]) -> list[str]:
        values = [statistics.fmean(100 * statistics.fmean(a[task]) for a in answers) for task in answers[0]]
        return [name, *(f"{value:.1f}" for value in values), f"{statistics.fmean(values):.1f}"]

    rows = [row("(base)", [found.base(count)]), row("(expert)", [found.alone(seed, count) for seed in found.seeds])]
    for family in found.families(count):
        for alpha in (None, "1/K"):
            best = found.best(family, alpha, count)
            if best is not None:
                title = family if alpha is None else f"{family} + SVC {alpha}"
                rows.append(row(title, found.of(best, count, found.seeds_of(best, count))))
    return table(["merge", *found.base(count), "average"], rows)


def scales(found: Results) -> str:
    """Task arithmetic at each scale with and without SVC, for every K."""
    rows = []
    for count in found.measured:
        for weight in TASK_SCALES:
            plain = Variant("task arithmetic", "task_arithmetic", weight=weight)
            cells = [_cell(found, replace(plain, alpha="1/K"), count), _cell(found, plain, count)]
            rows.append([str(count), f"sum x {weight:g}", *cells])
        for calibrated, plain in zip(MATRICES_SCALED[:3], MATRICES_SCALED[3:], strict=True):
            cells = [_cell(found, calibrated, count), _cell(found, plain, count)]
            about = f"sum x {plain.weight:g} for matrices, x {plain.rest:g} for other tensors"
            rows.append([str(count), about, *cells])
        scaled = "plain sum, matrices scaled to their norms under SVC"
        rows.append([str(count), scaled, "", _cell(found, NORM_MATCHED, count)])
    return table(
        ["K", "input", "with SVC 1/K", "without"], [row for row in rows if row[2:] not in (["-", "-"], ["", "-"])]
    )


def _cell(found: Results, variant: Variant, count: int) -> str:
    seeds = found.seeds_of(variant, count)
    if not seeds:
        return "-"
    some = "" if seeds == found.seeds else f" ({len(seeds)} of {len(found.seeds)} sets)"
    return f"{found.mean(variant, count):.1f}{some}"


def questions(found: Results) -> str:
    """The comparisons, with intervals and by set of experts."""
    rows = []
    for count in found.measured:

        def best(family: str, alpha: str | None = None, count: int = count) -> Variant | None:
            return found.best(family, alpha, count)

        svc, plain = best("task arithmetic", "1/K"), best("task arithmetic")
        average = best("average")
        assert average is not None
        pairs = [
            ("task arithmetic, best scale, over average", plain, average),
            ("task arithmetic + SVC 1/K over the best scale", svc, plain),
            ("SVC 1/K on the sum over the plain sum with the same norms", SCALED[0], NORM_MATCHED),
            ("SVC 1/K: sum x 1 over sum x 0.3", SCALED[0], SCALED[1]),
            ("SVC 1/K: sum x 0.1 over sum x 0.3", SCALED[2], SCALED[1]),
            ("SVC 1/K, scale of matrices only: x 1 over x 0.3", MATRICES_SCALED[0], SCALED[1]),
            ("SVC 1/K, scale of matrices only: x 0.1 over x 0.3", MATRICES_SCALED[2], SCALED[1]),
            ("TSV-M at lambda 1: with SVC 1/K over without", TSV_M_DEFAULT[1], TSV_M_DEFAULT[0]),
            ("SWUDI over WUDI", best("SWUDI"), best("WUDI")),
            ("SWUDI-A over WUDI", best("SWUDI-A"), best("WUDI")),
            ("SWUDI over task arithmetic + SVC 1/K", best("SWUDI"), svc),
            *(
                (f"{family} + SVC {alpha} over {family}", best(family, alpha), best(family))
                for family in ("TSV-M", "WUDI", "SWUDI", "SWUDI-A")
                for alpha in ("1/K", "1")
            ),
        ]
        gains = [("average over base", found.gain_over_base(average, count))]
        gains += [(text, gain) for text, a, b in pairs if (gain := found.gain(a, b, count)) is not None]
        for text, gain in gains:
            rows.append([text, str(count), gain.text(), ", ".join(f"{value:+.1f}" for value in gain.seeds)])
    return table(["difference", "K", "points (95 % interval)", "by set of experts"], rows)


def settings(found: Results) -> str:
    """SWUDI's grid and SWUDI-A's rank rules on validation."""
    folder = place(found.work, 0, found.main).folder / "validation"
    rows = [
        [variant.family, variant.setting, f"{accuracy(results.read(folder / f'{variant.name}.json')):.1f}"]
        for variant in [*SWUDI, *SWUDI_A]
        if (folder / f"{variant.name}.json").exists()
    ]
    return table(["method", "setting", "validation accuracy"], rows)


def costs(found: Results) -> str:
    """Seconds and memory from the reports."""
    rows = []
    for family in found.families(found.main):
        for alpha in (None, "1/K"):
            best = found.best(family, alpha, found.main)
            report = None if best is None else found.timed(best)
            if report is not None:
                rows.append([
                    family + (f" + SVC {alpha}" if alpha else ""), f"{report['seconds']['compute']:.1f}",
                    f"{report['memory'] / 2**20:.0f} MiB",
                ])  # fmt: skip
    if not rows:
        return "Not measured yet (step `timings`)."
    return table(["merge", "seconds of computing, one thread", "memory of the largest unit"], rows)


TABLES = {
    "tasks": tasks, "questions": questions, "methods": methods, "scales": scales, "per task": per_task,
    "settings": settings, "costs": costs,
}  # fmt: skip


def update(page: Path, found: Results) -> None:
    """Put each table between its markers ``<!-- table: NAME -->`` and ``<!-- end -->`` in a page."""
    text = page.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        text = put(text, name, make(found), page)
    page.write_text(text, encoding="utf-8")


def put(text: str, name: str, content: str, page: Path) -> str:
    """The page's text with a table's new content."""
    marker = f"<!-- table: {name} -->"
    head, found_marker, rest = text.partition(marker)
    if not found_marker:
        raise ValueError(f"{page} has no {marker}")
    _, end, tail = rest.partition("<!-- end -->")
    return f"{head}{marker}\n{content}\n{end}{tail}"
