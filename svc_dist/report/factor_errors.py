"""What the pairs of an adapter miss of the merged deltas, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from svc_dist.errors import printable
from svc_dist.run_folder.report import MergeReport
from svc_dist.sizes import counted

_SHOWN = 5


@dataclass(frozen=True)
class FactorErrors:
    """The summaries of an adapter's matrices: each with the ``norm`` of its delta and the relative ``error``."""

    matrices: list[dict[str, Any]]

    @classmethod
    def of(cls, report: MergeReport) -> FactorErrors:
        return cls([entry for entry in report.matrices if "error" in entry])

    @property
    def total(self) -> float:
        """The norm of all that is missed, relative to the norm of all deltas."""
        missed = math.hypot(*(entry["error"] * entry["norm"] for entry in self.matrices))
        norm = math.hypot(*(entry["norm"] for entry in self.matrices))
        return missed / norm if norm else 0.0

    def lines(self) -> Iterator[str]:
        """The error in total, and the matrices with the largest ones."""
        changed = [entry for entry in self.matrices if entry["norm"]]
        equal = len(self.matrices) - len(changed)
        same = f"; {counted(equal, 'more pair')} without any change" if equal else ""
        yield f"relative error {self.total:.3g} over {counted(len(changed), 'pair')} of factors (Frobenius norm){same}"
        largest = sorted(changed, key=lambda entry: -entry["error"])[:_SHOWN]
        for entry in largest if self.total > 0 else ():
            number = f"[{entry['matrix']}]" if entry["matrix"] else ""
            yield f"    {entry['error']:.3g}  {printable(entry['tensor'])}{number}, rank {entry['rank']}"
