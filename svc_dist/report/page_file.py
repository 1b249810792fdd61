"""The file of a page: beside the model or where the user wants it, and never over the page of another merge."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from svc_dist.errors import OutputError, StorageError, printable
from svc_dist.run_folder.report import MergeReport
from svc_dist.storage.access import DEFAULT_ACCESS, Access
from svc_dist.storage.local import require_replaceable
from svc_dist.storage.open import open_storage

PAGE_FILE = "merge_report.html"  # beside a model
_MARK = re.compile(rb'<meta name="svc_dist" content="(?P<kind>merge|inspection) ?(?P<fingerprint>[^"]*)">')
_HEAD = 4096  # bytes in which the mark stands


def mark(report: MergeReport) -> str:
    """The element by which a page is known as that of a merge or of an inspection."""
    kind = f"merge {report.fingerprint}" if report.ranges else "inspection"
    return f'<meta name="svc_dist" content="{escape(kind)}">'


class PageFile:
    """Where a page goes. ``beside``: the folder or URL of the model it is about; None for a local ``file``."""

    def __init__(self, beside: str | None, file: Path | None, access: Access = DEFAULT_ACCESS) -> None:
        if file is None:
            self._storage, self._name = open_storage(beside or ".", access), PAGE_FILE
            self.location = f"{self._storage.location}/{PAGE_FILE}"
        else:
            require_replaceable(file)
            self._storage, self._name = open_storage(str(file.absolute().parent)), file.name
            self.location = str(file)
        if self._storage.read_only is not None:
            raise OutputError(f"{self.location}: {self._storage.read_only}", "name a local page: --html FILE")

    def require_own(self, report: MergeReport) -> None:
        """Raise OutputError where another page, or another file, is there already."""
        existing = self._storage.stat(self._name)
        if existing is None or not existing.size:
            return
        head = self._storage.read(self._name, 0, min(existing.size, _HEAD))
        found = _MARK.search(head)
        if found is None:
            whose = "a file that is no page of svc_dist, or one of an earlier release"
        elif found[0] == mark(report).encode():
            return
        else:
            whose = "the page of an inspection" if found["kind"] == b"inspection" else "the page of another merge"
        raise OutputError(
            f"{printable(self.location)} is {whose}, which stays as it is",
            "name another file with --html, or remove that one",
        )

    def write(self, text: str) -> None:
        """Write the page. Raises StorageError."""
        try:
            self._storage.put(self._name, text.encode())
        except StorageError as error:
            raise StorageError(
                f"cannot write {printable(self.location)}: {error.message}", "name a local page: --html FILE"
            ) from None
