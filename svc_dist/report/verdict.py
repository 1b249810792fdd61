"""What a merge or an inspection shows, in words: what the plain sum over-counts, and what calibration does about it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from svc_dist.errors import printable
from svc_dist.report.diagnosis import Diagnosis, Matrix, label
from svc_dist.report.effect import Effect, Kind
from svc_dist.run_folder.experts import foreign_experts
from svc_dist.run_folder.report import MergeReport

MUCH, SOME, CANCEL = 1.25, 1.05, 0.95  # times that the plain sum counts what experts learnt
_DID = {Kind.SHRUNK: "shrank", Kind.LIFTED: "lifted", Kind.HARDLY_TOUCHED: "hardly touched"}
_WOULD = {Kind.SHRUNK: "would shrink", Kind.LIFTED: "would lift", Kind.HARDLY_TOUCHED: "would hardly touch"}


def verdict(diagnosis: Diagnosis) -> str:
    """Some sentences for a person who decides whether to calibrate. The first is the same before and after a merge."""
    return " ".join([plain_sum(diagnosis), *_calibration(diagnosis), *_another_base(diagnosis.report)])


def plain_sum(diagnosis: Diagnosis) -> str:
    """What the plain sum of the experts over-counts, whatever the merge made of them."""
    times = diagnosis.times_counted()
    if math.isnan(times):
        return "No matrix was compared with the experts, so there is no figure for over-counting."
    if times < CANCEL:
        return f"The experts cancel each other: their plain sum holds only {times:.2f} of what they learned."
    much = "Much" if times > MUCH else "Some" if times > SOME else "Little"
    return f"{much} over-counting: the plain sum of these experts counts what they learned {times:.2f} times."


def _calibration(diagnosis: Diagnosis) -> list[str]:
    effect, merged = Effect.of(matrix.summary for matrix in diagnosis.matrices), bool(diagnosis.report.ranges)
    if effect is None:
        return ["This merge was not calibrated."] if merged else []
    if not merged:
        return [effect.sentence("Calibrating that sum (calibrate: svc)", _WOULD)]
    gamma = diagnosis.gamma()
    held = f"Before calibration, the merged deltas counted it {1 / gamma:.2f} times (gamma {gamma:.2f})."
    return [held, effect.sentence("Calibration", _DID)] if gamma > 0 else [effect.sentence("Calibration", _DID)]


def _another_base(report: MergeReport) -> list[str]:
    """Of experts that were not trained from this base, which the headers of their files do not tell."""
    return [f"{foreign}." for foreign in foreign_experts(report.models, report.deltas)]


def by_kind(diagnosis: Diagnosis) -> Iterator[tuple[str, int, float, float, float]]:
    """Of each kind of module: its number of calibrated matrices, times counted, gamma, and the experts' cosine."""
    kinds: dict[str, list[Matrix]] = {}
    for matrix in diagnosis.calibrated:
        kinds.setdefault(diagnosis.kind(matrix.name), []).append(matrix)
    for kind, chosen in kinds.items():
        names = {matrix.tensor: None for matrix in chosen}
        times, cosine = diagnosis.times_counted(names), diagnosis.mean_cosine(names)
        yield kind, len(chosen), times, diagnosis.gamma(chosen), cosine


def most_over_counted(diagnosis: Diagnosis, most: int) -> list[tuple[str, float]]:
    """The matrices with the smallest gamma, and that."""
    gammas = [(label(matrix), float(matrix.summary["gamma_by_energy"])) for matrix in diagnosis.calibrated]
    return sorted(gammas, key=lambda one: one[1])[:most]


def inspection_text(diagnosis: Diagnosis, most: int = 8) -> str:
    """A table by kind of module, the most over-counted matrices, and the verdict."""
    kinds = list(by_kind(diagnosis))
    width = max([len("kind"), *(len(kind) for kind, *_ in kinds)])
    lines = [f"{'kind':{width}}  matrices   times   gamma  cosine"]
    lines += [
        f"{printable(kind):{width}}  {count:8d}  {times:6.3f}  {gamma:6.3f}  {cosine:6.3f}"
        for kind, count, times, gamma, cosine in kinds
    ]
    lines += ["", "most over-counted:"]
    lines += [f"  gamma {gamma:.3f}  {printable(name)}" for name, gamma in most_over_counted(diagnosis, most)]
    return "\n".join([*lines, "", verdict(diagnosis)])
