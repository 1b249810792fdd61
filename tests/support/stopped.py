"""A merge in this process that ends before it is complete."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

import svc_dist
from svc_dist.run_folder.journal import Journal
from svc_dist.run_folder.receipt import Receipt


class StoppedError(Exception):
    """What the merge ends with."""


def stop_merge(recipe: Path, output: Path, receipts: int) -> None:
    """Merge until there are so many receipts, and end before the next one is recorded."""
    record, recorded = Journal.record, count()

    def stopping(self: Journal, receipt: Receipt) -> None:
        if next(recorded) >= receipts:
            raise StoppedError
        record(self, receipt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "record", stopping)
        with pytest.raises(StoppedError):
            svc_dist.merge(recipe, output, executor="inline", device="cpu", slots=1)
