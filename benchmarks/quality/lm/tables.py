"""The tables of the language model's benchmark, as Markdown, from the results in the work folder."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality import results
from benchmarks.quality.lm import inspection, stored
from benchmarks.quality.lm.data import TASKS
from benchmarks.quality.lm.grid import ALONE, GRID, NORM_MATCHED, QUANTISED, groups
from benchmarks.quality.lm.kinds import KINDS
from benchmarks.quality.lm.places import ABILITIES, experts_folder, place
from benchmarks.quality.lm.rows import chosen
from benchmarks.quality.results import Answers, accuracy, difference
from benchmarks.quality.tables import put, table
from benchmarks.quality.variants import Variant

_REFERENCE = "task arithmetic"
_SVC = "task arithmetic + SVC"


class Results:
    """Scores of merges by kind of expert, number of experts, seed and row."""

    def __init__(self, work: Path, seeds: Sequence[int]) -> None:
        self.work, self.seeds = work, list(seeds)
        self.cases = [
            (kind, count)
            for kind in KINDS
            for count in range(2, len(TASKS) + 1)
            if (place(work, 0, kind, count).folder / "test").exists()
        ]

    def rows(self, kind: str, count: int) -> dict[str, Variant]:
        """The setting of each row that has scores, in the grid's order; last, the sum at the norms of SVC."""
        found = {variant.family: variant for variant in chosen(self.work, kind, count)} | {
            NORM_MATCHED.family: NORM_MATCHED
        }
        return {family: variant for family, variant in found.items() if self.seeds_of(variant, kind, count)}

    def seeds_of(self, variant: Variant, kind: str, count: int) -> list[int]:
        return [s for s in self.seeds if place(self.work, s, kind, count).file(variant, "test").exists()]

    def of(self, variant: Variant, kind: str, count: int, seeds: Sequence[int], part: str = "test") -> list[Answers]:
        return [results.read(place(self.work, s, kind, count).file(variant, part)) for s in seeds]

    def base(self, part: str = "test") -> Answers:
        return results.read(self.work / "base" / part / "base.json")

    def alone(self, seed: int, kind: str, name: str, part: str = "test") -> Answers | None:
        """The scores of an expert, merged alone into the base."""
        file = experts_folder(self.work, seed, kind) / "alone" / name / part / f"{ALONE.name}.json"
        return results.read(file) if file.exists() else None

    def experts(self, kind: str, count: int) -> float | None:
        """The mean score of the experts, each on its own task; None if one has none."""
        means = []
        for seed in self.seeds:
            scores = [self.alone(seed, kind, name) for name in list(TASKS)[:count]]
            if all(entry is not None for entry in scores):
                means.append(statistics.fmean(accuracy(entry) for entry in scores if entry is not None))
        return statistics.fmean(means) if means else None


def tasks(found: Results) -> str:
    """The tasks, their sizes, and the scores of the base and of the experts of each kind."""
    rows = []
    for name, task in TASKS.items():
        content = json.loads((found.work / "data" / f"{name}.json").read_text("utf-8"))
        sizes = " / ".join(f"{len(content[part]):,}" for part in ("train", "validation", "test"))
        cells = [f"{100 * statistics.fmean(found.base()[name]):.1f}"]
        for kind in KINDS:
            alone = [entry for seed in found.seeds if (entry := found.alone(seed, kind, name)) is not None]
            cells.append(f"{statistics.fmean(accuracy(entry) for entry in alone):.1f}" if alone else "-")
        rows.append([f"`{name}`", task.about, sizes, *cells, task.source])
    header = ["task", "what is asked", "items (train / validation / test)", "base", *KINDS, "source"]
    return table(header, rows)


def methods(found: Results) -> str:
    """For every case: each row's score, its difference to task arithmetic, and what is left of the base."""
    rows = []
    for kind, count in found.cases:
        chosen_rows = found.rows(kind, count)
        base = found.base()
        start = accuracy({name: base[name] for name in list(TASKS)[:count]})
        experts = found.experts(kind, count)
        left = _left(found.base(ABILITIES))
        rows.append([kind, str(count), "(base)", "", f"{start:.1f}", "", *left, ""])
        rows.append(
            [kind, str(count), "(experts)", "", "-" if experts is None else f"{experts:.1f}", "", "", "", "", ""]
        )
        for family, variant in chosen_rows.items():
            seeds = found.seeds_of(variant, kind, count)
            score = statistics.fmean(accuracy(entry) for entry in found.of(variant, kind, count, seeds))
            gain = _gain(found, variant, chosen_rows.get(_REFERENCE), kind, count) if family != _REFERENCE else ""
            setting = _setting(variant) if family != NORM_MATCHED.family else ""
            left = _left(*found.of(variant, kind, count, seeds, ABILITIES))
            rows.append([kind, str(count), family, setting, f"{score:.1f}", gain, *left, str(len(seeds))])
    header = ["experts", "K", "method", "setting", "score", "over task arithmetic", "prose (nats)", "facts",
              "instructions", "sets"]  # fmt: skip
    return table(header, rows)


def _setting(variant: Variant) -> str:
    parts = [variant.setting, f"alpha {variant.alpha}" if variant.alpha else "", *variant.then]
    return ", ".join(part for part in parts if part)


def _gain(found: Results, one: Variant, other: Variant | None, kind: str, count: int) -> str:
    """The difference with its interval, over the sets of experts for which both were measured."""
    if other is None:
        return "-"
    seeds = [s for s in found.seeds_of(one, kind, count) if s in found.seeds_of(other, kind, count)]
    if not seeds:
        return "-"
    return difference(found.of(one, kind, count, seeds), found.of(other, kind, count, seeds)).text()


def _left(*abilities: Answers) -> list[str]:
    """What is left of the base: loss on prose, right facts and right tokens of instructions in percent."""
    means = {
        name: statistics.fmean(statistics.fmean(entry[name]) for entry in abilities)
        for name in ("prose", "facts", "instructions")
    }
    return [f"{means['prose']:.2f}", f"{100 * means['facts']:.0f}", f"{100 * means['instructions']:.0f}"]


def per_task(found: Results) -> str:
    """Scores by task of every row, with columns for tasks that a case does not have left empty."""
    rows = []
    for kind, count in found.cases:
        for family, variant in found.rows(kind, count).items():
            scores = found.of(variant, kind, count, found.seeds_of(variant, kind, count))
            cells = [
                f"{100 * statistics.fmean(statistics.fmean(entry[name]) for entry in scores):.1f}"
                if index < count
                else ""
                for index, name in enumerate(TASKS)
            ]
            rows.append([kind, str(count), family, *cells])
    return table(["experts", "K", "method", *TASKS], rows)


def questions(found: Results) -> str:
    """The comparisons, with intervals and by set of experts."""
    pairs = [
        (_REFERENCE, "average"), (_SVC, _REFERENCE), (_SVC, NORM_MATCHED.family), ("SWUDI", _REFERENCE),
        ("SWUDI", _SVC), ("TSV-M", _SVC), ("SWUDI", "TSV-M"), ("SWUDI, scaled", "TSV-M"),
        ("SWUDI", "SWUDI-A"), ("TIES", _REFERENCE),
        ("Iso-C", _SVC), ("TSV-M + SVC", "TSV-M"), ("SWUDI + SVC", "SWUDI"), ("MAGIC", _SVC),
        ("weights by layer", _SVC),
    ]  # fmt: skip
    rows = []
    for kind, count in found.cases:
        variants = found.rows(kind, count)
        for one, other in pairs:
            if one not in variants or other not in variants:
                continue
            a, b = variants[one], variants[other]
            seeds = [s for s in found.seeds_of(a, kind, count) if s in found.seeds_of(b, kind, count)]
            if seeds:
                gain = difference(found.of(a, kind, count, seeds), found.of(b, kind, count, seeds))
                by_set = ", ".join(f"{value:+.1f}" for value in gain.seeds)
                rows.append([f"{one} over {other}", kind, str(count), gain.text(), by_set])
    return table(["difference", "experts", "K", "points (95 % interval)", "by set of experts"], rows)


def settings(found: Results) -> str:
    """Every setting's score on validation items, for each case."""
    rows = []
    for group in groups(GRID):
        for variant in group:
            cells = []
            for kind, count in found.cases:
                file = place(found.work, 0, kind, count).file(variant, "validation")
                cells.append(f"{accuracy(results.read(file)):.1f}" if file.exists() else "")
            if any(cells):
                rows.append([variant.family, _setting(variant), *cells])
    return table(["method", "setting", *(f"{kind}, K = {count}" for kind, count in found.cases)], rows)


def training(found: Results) -> str:
    """Minutes of training by kind; nothing where only scores are left of a run."""
    rows = []
    for kind in KINDS:
        logs = [
            json.loads(file.read_text("utf-8"))
            for seed in found.seeds
            for file in sorted((experts_folder(found.work, seed, kind) / "experts").glob("*/training_log.json"))
        ]
        if logs:
            minutes = [log["cpu_seconds"] / 60 for log in logs]
            total = f"{sum(minutes) / 60:.1f}"
            rows.append([kind, str(len(logs)), str(logs[0]["steps"]), f"{statistics.fmean(minutes):.1f}", total])
    header = ["experts", "number", "steps of 8", "minutes of CPU time each", "hours in all"]
    return table(header, rows) if rows else ""


def inspected(found: Results) -> str:
    """For every set of experts, what ``inspect`` shows before the merge, and what SVC gained on its sum."""
    rows, pairs = [], []
    for kind, count in found.cases:
        variants = found.rows(kind, count)
        if not {_SVC, _REFERENCE} <= set(variants):
            continue
        svc, plain = variants[_SVC], variants[_REFERENCE]
        for seed in found.seeds:
            file = place(found.work, seed, kind, count).folder / inspection.FILE
            if (
                file.exists()
                and seed in found.seeds_of(svc, kind, count)
                and seed in found.seeds_of(plain, kind, count)
            ):
                figures = json.loads(file.read_text("utf-8"))
                gain = difference(found.of(svc, kind, count, [seed]), found.of(plain, kind, count, [seed]))
                pairs.append((figures, gain.mean))
                shown = [f"{figures[key]:.2f}" for key in ("times", "leading", "gamma", "cosine")]
                norms = " to ".join(f"{100 * value:.2f} %" for value in (min(figures["norms"]), max(figures["norms"])))
                rows.append([kind, str(count), str(seed), *shown, norms, gain.text()])
    header = ["experts", "K", "set", "times counted", "leading direction", "gamma", "cosine", "size of a delta",
              "SVC over task arithmetic"]  # fmt: skip
    made = table(header, rows)
    if len(pairs) > 3:
        gains = [gain for _, gain in pairs]
        ranks = {key: rank_correlation([figures[key] for figures, _ in pairs], gains) for key in ("times", "leading")}
        made += (
            f"\n\nOver these {len(pairs)} sets, the rank correlation of SVC's gain is {ranks['times']:.2f} with times "
            f"counted, and {ranks['leading']:.2f} with how often the leading direction is counted."
        )
    return made


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's; equal values share their mean rank."""
    ranks = [[statistics.fmean([sum(v < x for v in values), sum(v <= x for v in values) - 1]) for x in values]
             for values in (one, other)]  # fmt: skip
    return statistics.correlation(*ranks) if all(len(set(entry)) > 1 for entry in ranks) else float("nan")


def quantised(found: Results) -> str:
    """For every format, the chosen merges of experts stored in it, and what the format cost."""
    rows = []
    for kind, count in found.cases:
        plain = place(found.work, 0, kind, count)
        variants = {family: v for family, v in found.rows(kind, count).items() if v in QUANTISED}
        for name in stored.FORMATS:
            folder = plain.folder / name
            alone = [(folder / "alone" / task / "test" / f"{ALONE.name}.json", task) for task in plain.tasks]
            if all(file.exists() for file, _ in alone):
                own = {task: results.read(file)[task] for file, task in alone}
                whole = {task: entry[task] for task in plain.tasks if (entry := found.alone(0, kind, task)) is not None}
                cost = difference([own], [whole]).text() if len(whole) == count else "-"
                rows.append([kind, str(count), name, "(experts)", f"{accuracy(own):.1f}", cost])
            for family, variant in variants.items():
                file = folder / "test" / f"{variant.name}.json"
                if file.exists():
                    scores, reference = results.read(file), results.read(plain.file(variant, "test"))
                    cost = difference([scores], [reference]).text()
                    rows.append([kind, str(count), name, family, f"{accuracy(scores):.1f}", cost])
    if not rows:
        return "Not measured yet."
    return table(["experts", "K", "stored as", "method", "score", "over the same merge of bfloat16"], rows)


TABLES = {
    "lm tasks": tasks, "lm questions": questions, "lm methods": methods, "lm per task": per_task,
    "lm settings": settings, "lm inspected": inspected, "lm quantised": quantised, "lm training": training,
}  # fmt: skip


def write_tables(found: Results, file: Path, page: Path) -> None:
    """Write all tables into a file, and those that a page has markers for into the page."""
    made = {name: content for name, make in TABLES.items() if (content := make(found))}
    file.write_text("".join(f"## {name}\n\n{content}\n\n" for name, content in made.items()), encoding="utf-8")
    print(f"all tables: {file}", flush=True)
    before = text = page.read_text(encoding="utf-8")
    for name, content in made.items():
        if f"<!-- table: {name} -->" in text:
            text = put(text, name, content, page)
    if text != before:
        page.write_text(text, encoding="utf-8")
