"""Matrices whose task deltas are mostly what storage has rounded: counted in the receipts of a run, and warned of."""

from __future__ import annotations

from svc_dist.run_folder.receipt import Receipt


class RoundingWarning:
    """Counts matrices as their units complete. ``text``: the warning, or None where there is nothing to warn of."""

    def __init__(self) -> None:
        self._matrices = 0
        self._rounded: list[str] = []

    def count(self, receipt: Receipt) -> None:
        for summary in receipt.ranges[0].matrices:
            if "cut_as_storage_rounding" in summary:
                self._matrices += 1
                if summary["cut_as_storage_rounding"] > summary["kept_rank"]:
                    self._rounded.append(str(summary["tensor"]))

    @property
    def text(self) -> str | None:
        if not self._rounded:
            return None
        return (
            f"{len(self._rounded):,} of {self._matrices:,} decomposed matrices ({self._rounded[0]}, ...): most "
            "directions of the task deltas are not above the rounding of the stored weights and were left out; where "
            "the experts come from adapters, merge the adapters themselves; otherwise use files in float32"
        )
