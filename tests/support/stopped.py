"""A merge in this process that ends before it is complete."""

from __future__ import annotations

import threading
import time
from itertools import count
from pathlib import Path

import pytest

import svc_dist
from svc_dist.run_folder.journal import Journal
from svc_dist.run_folder.receipt import Receipt


class StoppedError(Exception):
    """What the merge ends with."""


def stop_merge(recipe: Path, output: Path, receipts: int, shards: int = 0) -> None:
    """Merge until there are so many receipts, and end before the next one is recorded.

    ``shards``: of those that these receipts complete, so many are finished and recorded by then.
    """
    record, recorded, one_at_a_time = Journal.record, count(), threading.Lock()

    def stopping(self: Journal, receipt: Receipt) -> None:
        with one_at_a_time:  # the receipts before the last one are there when the merge ends
            if next(recorded) >= receipts:
                until = time.monotonic() + 30
                while len(self.recorded_shards()) < shards:
                    assert time.monotonic() < until, "these receipts complete fewer shards"
                    time.sleep(0.01)
                raise StoppedError
            record(self, receipt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "record", stopping)
        with pytest.raises(StoppedError):
            svc_dist.merge(recipe, output, executor="inline", device="cpu", slots=1)
