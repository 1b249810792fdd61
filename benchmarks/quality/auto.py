"""``python -m benchmarks.quality.auto``: does ``merge_method: auto`` choose as well as the best fixed merge?

Reads the tables of ``docs/choosing.md`` and nothing else. Each benchmark is left out once: the choice is made by the
tables of the others and scored by its own. The result is written into the page, between the markers of the table
``auto``.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.tables import put, table
from svc_dist.methods.auto.choice import AUTO, choose
from svc_dist.methods.auto.features import Features

#: How far the choice may be from the best fixed merge, in points.
TOLERANCE = 0.5
#: The benchmarks that must all be within it.
NEEDED = ("encoder", "LM full", "LM lora")
#: The rows of the tables, by the merge methods that they measure.
FAMILIES = {
    "linear": "average", "task_arithmetic": "task arithmetic", "wudi": "WUDI", "swudi": "SWUDI", "swudi_a": "SWUDI-A",
    "tsv_m": "TSV-M", "ties": "TIES", "dare_linear": "DARE", "star": "STAR", "iso_c": "Iso-C", "iso_cts": "Iso-CTS",
    "optmerge": "OptMerge", "model_stock": "model stock", "ace": "ACE", "resmerge": "ResMerge",
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Case:
    """The scores of merges of ``experts`` experts of a kind (full, lora, sparse) on one benchmark, by title."""

    benchmark: str
    kind: str
    experts: int
    scores: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"{self.benchmark}, K = {self.experts}"

    @property
    def best(self) -> str:
        return max(self.scores, key=self.scores.__getitem__)

    def regret(self, merge: str) -> float | None:
        """The points that a merge lacks to the best one; None where it was not measured."""
        return None if merge not in self.scores else self.scores[self.best] - self.scores[merge]


def cases(text: str) -> list[Case]:
    """The benchmarks of a page: the encoder's main table, and each kind and number of the language model's experts."""
    found = [*_encoder(text)]
    by_case: dict[tuple[str, int], dict[str, float]] = {}
    for row in _rows(text, "lm methods"):
        title, score = row["method"], _number(row["score"])
        if score is not None and not title.startswith("(") and title != "norms of SVC":
            by_case.setdefault((row["experts"], int(row["K"])), {})[title] = score
    return [*found, *(Case(f"LM {kind}", kind, count, scores) for (kind, count), scores in by_case.items())]


def _encoder(text: str) -> Iterator[Case]:
    scores: dict[str, float] = {}
    for row in _rows(text, "methods"):
        plain = _number(row["accuracy"])
        if plain is None or row["method"].startswith("("):
            continue
        scores[row["method"]] = plain
        gains = [_number(cell) for key, cell in row.items() if key.startswith("SVC ")]
        known = [gain for gain in gains if gain is not None]
        if known:
            scores[f"{row['method']} + SVC"] = round(plain + max(known), 1)
    if scores:
        yield Case("encoder", "full", len(_rows(text, "tasks")), scores)
    for count in sorted({int(row["K"]) for row in _rows(text, "questions")} - {len(_rows(text, "tasks"))}):
        of_count = _by_differences(text, str(count))
        if "SWUDI" in of_count:
            yield Case("encoder", "full", count, of_count)


def _by_differences(text: str, count: str) -> dict[str, float]:
    """The encoder's scores for another number of experts: the best plain sum, and the differences between merges."""
    plain = [_number(row["without"]) for row in _rows(text, "scales") if row["K"] == count]
    scores = {"task arithmetic": max((score for score in plain if score is not None), default=0.0)}
    pairs = [row for row in _rows(text, "questions") if row["K"] == count]
    for row in pairs * 3:  # a difference may lead to a merge that an earlier one needs
        one, _, other = (_title(part) for part in row["difference"].partition(" over "))
        points = _number(row["points (95 % interval)"])
        if points is None:
            continue
        if other in scores:
            scores[one] = max(scores.get(one, 0.0), round(scores[other] + points, 1))
        elif one in scores:
            scores[other] = round(scores[one] - points, 1)
    merges = {*FAMILIES.values(), *(f"{family} + SVC" for family in FAMILIES.values())}
    return {title: score for title, score in scores.items() if title in merges}


def _title(part: str) -> str:
    """A merge in the table of differences, as the other tables call it."""
    if part in ("the best scale", "task arithmetic, best scale,"):
        return "task arithmetic"
    return part.removesuffix(" 1/K").removesuffix(" 1") if " + SVC" in part else part


def _rows(text: str, name: str) -> list[dict[str, str]]:
    """The rows of a table of the page, by the columns' titles; none where there is no such table."""
    _, marker, rest = text.partition(f"<!-- table: {name} -->")
    lines = [line.strip() for line in rest.partition("<!-- end -->")[0].splitlines() if line.strip().startswith("|")]
    if not marker or len(lines) < 3:
        return []
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, cells, strict=True)) for cells in body]


def _number(cell: str) -> float | None:
    found = _NUMBER.match(cell)
    return None if found is None else float(found[0])


def learned(others: Sequence[Case], left_out: Case) -> str | None:
    """The merge that lacks least to the best one, on average over other benchmarks: of this kind if there are any.

    It is one that all of these measured, and the one that is left out too: else it could not be scored.
    """
    alike = [case for case in others if case.kind == left_out.kind] or list(others)
    if not alike:
        return None
    common = [merge for merge in left_out.scores if all(merge in case.scores for case in alike)]

    def lacking(merge: str) -> float:
        return statistics.fmean(regret for case in alike if (regret := case.regret(merge)) is not None)

    return min(common, key=lacking, default=None)


def chosen(case: Case) -> str:
    """What ``auto`` chooses for the experts of a benchmark, as its tables call it."""
    features = Features(
        experts=case.experts, adapters=float(case.kind.startswith("lora")), times=1.2, cosine=0.1,
        changed=0.02 if case.kind == "sparse" else 1.0, rank=0.2 if case.kind.startswith("lora") else 0.5,
        norms=(0.02,) * case.experts, tensors=16, bytes_read=1 << 24,
    )  # fmt: skip
    keys = choose({"merge_method": AUTO, "calibrate": None}, features, 1.0).keys
    calibrated = keys["calibrate"]["method"] != "none"
    title = FAMILIES[keys["merge_method"]] + (" + SVC" if calibrated else "")
    return title if title in case.scores or not calibrated else title.removesuffix(" + SVC")


def check(found: Sequence[Case]) -> tuple[str, str]:
    """The table of the check, and its result in a sentence."""
    rows, why = [], [f"{name} has no table yet" for name in NEEDED if name not in {case.benchmark for case in found}]
    for case in found:
        others = [one for one in found if one.benchmark != case.benchmark]
        by_others, by_rows = learned(others, case), chosen(case)
        lacks = None if by_others is None else case.regret(by_others)
        if lacks is None or lacks > TOLERANCE:
            why.append(f"{case.name} " + ("has no choice yet" if lacks is None else f"lacks {lacks:.1f} points"))
        rows.append([
            case.name, f"{case.best} ({case.scores[case.best]:.1f})",
            "no other benchmark yet" if by_others is None else by_others, _points(lacks),
            by_rows, _points(case.regret(by_rows)),
        ])  # fmt: skip
    head = [
        "left out", "best fixed merge (score)", "chosen by the others' tables", "lacks", "chosen by auto's rows",
        "lacks",
    ]  # fmt: skip
    result = f"The goal is missed, and `auto` stays experimental: {'; '.join(why)}." if why else "The goal is reached."
    return table(head, rows), result


def _points(lacks: float | None) -> str:
    return "-" if lacks is None else f"{lacks:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of choosing.md")
    page: Path = parser.parse_args().docs / "choosing.md"
    text = page.read_text(encoding="utf-8")
    content, result = check(cases(text))
    page.write_text(put(text, "auto", f"{content}\n\n{result}", page), encoding="utf-8")
    print(f"{content}\n{result}")


if __name__ == "__main__":
    main()
