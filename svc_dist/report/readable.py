"""A report as Python's callers get it: it shows its verdict and its figures in a notebook."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

from svc_dist.notebook import table
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.verdict import by_kind, most_over_counted, verdict
from svc_dist.run_folder.report import MergeReport
from svc_dist.sizes import format_size

_WORST = 5


@dataclass(frozen=True, repr=False)
class Report(MergeReport):
    """The report of a merge, or of an inspection: ``verdict`` in words, ``diagnosis`` for figures by layer and kind."""

    @classmethod
    def of(cls, report: MergeReport) -> Self:
        return cls(**{field.name: getattr(report, field.name) for field in fields(report)})

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Times counted, gamma, overlap and norms of the experts."""
        return Diagnosis(self)

    @property
    def verdict(self) -> str:
        """What the plain sum over-counts, and what calibration does about it."""
        return verdict(self.diagnosis)

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict, kinds of modules, the most over-counted matrices, scores, origin."""
        worst = [(name, gamma) for name, gamma in most_over_counted(self.diagnosis, _WORST) if gamma < 1]
        scores = [(one.name, name, float(value)) for one in self.evaluations for name, value in one.metrics.items()]
        return table.block(
            "Merge" if self.ranges else "Inspection",
            table.paragraph(self.verdict),
            table.grid(("kind", "matrices", "times", "gamma", "cosine"), list(by_kind(self.diagnosis))),
            table.grid(("most over-counted", "gamma"), worst),
            table.grid(("evaluation", "metric", "value"), scores),
            table.fields(self._origin()),
        )

    def _origin(self) -> list[tuple[str, str]]:
        base, *experts = self.models
        rows = [("base", base.name), *(("expert", model.name) for model in experts)]
        if self.ranges:
            rows += [("written", format_size(self.bytes_out)), ("finished", self.finished)]
        return rows
