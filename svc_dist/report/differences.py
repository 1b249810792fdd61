"""How far experts are from the base, in words: what a threshold of ``only_where`` is chosen by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from svc_dist.errors import printable
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.tensor_names import parse_name


def difference_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """A table by kind of module: how far the farthest expert of each tensor, or matrix, is from the base."""
    kinds: dict[str, list[float]] = {}
    for one in diagnosis.report.only_where:
        kind = printable(diagnosis.kind(parse_name(one["tensor"])))
        found = [math.inf if value is None else float(value) for value in one["differences"]]  # None: a base of zeros
        kinds.setdefault(kind, []).append(max(found))
    if not kinds:
        return
    title = "relative difference"
    width = max(len(title), *map(len, kinds))
    yield f"{title:{width}}  {'number':>8}  {'least':>8}  {'median':>8}  {'largest':>8}"
    every = sorted(value for values in kinds.values() for value in values)
    for kind, values in [*kinds.items(), ("all", every)]:
        yield f"{kind:{width}}  {len(values):8d}  {min(values):8.3g}  {median(values):8.3g}  {max(values):8.3g}"
