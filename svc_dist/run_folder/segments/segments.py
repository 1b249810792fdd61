"""Segments: copies of many receipts in one file, so that a start reads a hundred files and not a hundred thousand.

A line is a receipt with its seal. It counts only while the receipt's own file is there: whoever removes a receipt
removes that file. Before the unit runs again, the run's driver, which alone writes segments, removes the line.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from svc_dist.errors import DamagedInputError
from svc_dist.run_folder.receipt import Receipt
from svc_dist.storage.base import IN_PARALLEL, Storage

FOLDER = "segments"
_NAME = re.compile(r"[0-9]{1,12}\.jsonl")
_LARGEST = 1 << 30  # bytes of a segment that are read


class Segments:
    """The segments in a run folder, by name."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self, brief: bool = False) -> dict[str, list[Receipt]]:
        """The receipts of each segment; lines that are damaged are left out. ``brief``: without the report's part."""
        names = [name for name in self._storage.names(FOLDER) if _NAME.fullmatch(name)]
        with ThreadPoolExecutor(IN_PARALLEL) as pool:
            return dict(zip(names, pool.map(lambda name: self._read(name, brief), names), strict=True))

    def write(self, name: str, lines: Iterable[bytes]) -> None:
        self._storage.put(f"{FOLDER}/{name}", b"\n".join(lines))

    def remove(self, name: str, units: Collection[str]) -> None:
        """Remove the receipts of units from a segment."""
        left = [receipt.to_json() for receipt in self._read(name, brief=False) if receipt.unit not in units]
        if left:
            self.write(name, left)
        else:
            self._storage.delete(f"{FOLDER}/{name}")

    def _read(self, name: str, brief: bool) -> list[Receipt]:
        receipts = []
        with contextlib.suppress(DamagedInputError):
            for line in (self._storage.get_within(f"{FOLDER}/{name}", _LARGEST) or b"").split(b"\n"):
                with contextlib.suppress(ValueError, RecursionError):
                    receipt = Receipt.from_json(line)
                    receipts.append(receipt.brief if brief else receipt)
        return receipts
