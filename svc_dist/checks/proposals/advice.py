"""The merge method and calibration that are proposed for experts, with the evidence: docs/choosing.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svc_dist.methods.auto.table import MERGE_METHODS


@dataclass(frozen=True)
class Findings:
    """What an inspection of the deltas shows: the mean ``gamma`` of SVC on their sum (below 1: shared directions are
    counted several times), how many ``times`` the sum counts what they learned, the mean ``cosine`` between experts,
    and the norm of each expert's delta over the base's."""

    gamma: float
    times: float
    cosine: float
    norms: tuple[float, ...]


@dataclass(frozen=True)
class Advice:
    """A method, its parameters (``weight``: of each expert), a calibration, why, and what to try next."""

    method: str
    parameters: Mapping[str, Any]
    calibrate: str | None
    why: tuple[str, ...]
    next: tuple[str, ...]
    weight: float | None = None
    notes: tuple[str, ...] = field(default=())


def advise(experts: int, adapters: int, findings: Findings | None = None) -> Advice:
    """The proposal for so many experts, of which so many are adapters to the base: what ``merge_method: auto`` stands
    for, with words about it."""
    features = {"experts": experts, "adapters": adapters / experts}
    row = next(row for row in MERGE_METHODS if row.holds(features))
    calibration = row.keys["calibrate"]["method"]
    why, following = _WORDS[row.title]
    return Advice(
        row.keys["merge_method"],
        row.keys["parameters"],
        None if calibration == "none" else calibration,
        (why,),
        following,
        weight=1.0 if row.keys["merge_method"] == "task_arithmetic" else None,
        notes=() if findings is None else tuple(_shown(findings)),
    )


#: By the title of a row: why, and what to try next.
_WORDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "one expert": (
        "With one expert nothing is counted twice, so there is nothing to calibrate. lambda 1 is the expert itself.",
        ("lambda from 0.3 to 0.7: a mixture of the base and the expert",),
    ),
    "LoRA adapters only": (
        "TSV-M with lambda 0.5 and SVC: with three adapters of a language model, TSV-M with SVC was 8 to 19 points "
        "over the best plain sum and 3 to 5 over TSV-M alone, with five 23 and 1 (docs/choosing.md).",
        ("lambda: 1.0 with alpha: 0.5 for adapters that one script trained with one seed: 3 points more there; 12 "
         "less for others",
         "merge_method: swudi with exp_time 300, rank_ratio 0.3 and lambda 0.5 (0.35 for five): 2 points less than "
         "TSV-M alone for three adapters of one script, 2 more for five, 5 less for others; at lambda 1 it was 11 "
         "points under the best plain sum"),
    ),
    "two to five experts": (
        "SWUDI needs no scale and no calibration. With three experts of a language model it gained 22 points over "
        "the best plain sum and 9 over the sum with SVC, with five 45 and 14; with four of an encoder, 2 over the "
        "latter (docs/choosing.md).",
        ("merge_method: task_arithmetic with weight 1, lambda 1 and calibrate: svc: faster; 13 and 2.5 points over "
         "the best plain sum there, and 13 with three sparse updates",
         "merge_method: tsv_m: 4 points less with three experts of a language model",
         "calibrate: svc: half a point more on SWUDI with four experts of an encoder"),
    ),
    "six or more experts": (
        "TSV-M with lambda 0.5 and SVC was the best of all merges with eight experts: 2.3 points over TSV-M alone "
        "(docs/choosing.md).",
        ("merge_method: task_arithmetic with weight 1, lambda 1 and calibrate: svc: much faster, 2.4 points less there",
         "merge_method: swudi without calibrate",
         "lambda: 1.0 only with alpha 0.5: with alpha 1/K it lost four points"),
    ),
}  # fmt: skip


def _shown(findings: Findings) -> list[str]:
    lines = [
        f"Inspected: the plain sum counts what the experts learned {findings.times:.2f} times (gamma "
        f"{findings.gamma:.2f}); mean cosine between experts {findings.cosine:.2f}."
    ]
    if findings.norms and max(findings.norms) > 3 * min(findings.norms):
        listed = ", ".join(f"{norm:.2g}" for norm in findings.norms)
        lines.append(
            f"The deltas differ much in size (over the base's norm: {listed}): the largest ones rule the sum; "
            "lower their weight if the others lose too much."
        )
    return lines
