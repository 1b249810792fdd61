"""The scores of every item in one file of the repository: intervals follow from them, and a run on another machine can
go on from them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

FILE = Path(__file__).with_name("scores.tar.xz")
#: Folders of a work folder with scores, and with the scales of the row at the norms of SVC.
_FOLDERS = ("test", "validation", "abilities", "norm_ratios")


def pack(work: Path, file: Path = FILE) -> None:
    """Write all scores of a work folder into ``file``; the same scores give the same bytes."""
    with tarfile.open(file, "w:xz") as archive:
        for path in sorted(work.rglob("*.json")):
            if path.parent.name in _FOLDERS or path.name == "inspection.json":
                content = path.read_bytes()
                entry = tarfile.TarInfo(path.relative_to(work).as_posix())
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def unpack(work: Path, file: Path = FILE) -> None:
    """Put the scores of ``file`` into a work folder, except those that it has."""
    with tarfile.open(file) as archive:
        missing = [entry for entry in archive.getmembers() if not (work / entry.name).exists()]
        archive.extractall(work, missing, filter="data")
