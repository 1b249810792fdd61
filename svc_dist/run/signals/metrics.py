"""Metrics of one merge for Prometheus: a text file for node_exporter's textfile collector, or a pushgateway."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

from svc_dist.errors import OutputError, StorageError
from svc_dist.run.signals.outcome import Ended, Outcome
from svc_dist.storage.base import os_errors
from svc_dist.storage.local import require_replaceable

#: Every metric, each a gauge with the label ``output``, and what it is.
METRICS = {
    "svc_dist_merge_running": "1 while a merge runs units, else 0.",
    "svc_dist_merge_units": "Units of the merge.",
    "svc_dist_merge_units_done": "Units that are done.",
    "svc_dist_merge_bytes": "Bytes that the merge reads and writes.",
    "svc_dist_merge_bytes_done": "Bytes read and written.",
    "svc_dist_merge_work_ratio": "Share of the estimated work that is done, 0 to 1.",
    "svc_dist_merge_eta_seconds": "Seconds that are left, as far as they can be estimated.",
    "svc_dist_merge_start_timestamp_seconds": "When the last start began.",
    "svc_dist_merge_updated_timestamp_seconds": "When these metrics were written.",
    "svc_dist_merge_duration_seconds": "Seconds of the last start that ended.",
    "svc_dist_merge_exit_code": "Exit code of the last start that ended.",
    "svc_dist_merge_result": "1 for the result of the last start that ended (complete, unchanged, stopped, failed).",
    "svc_dist_merge_success_timestamp_seconds": "When a start last ended with exit code 0.",
}
RESULTS = (Ended.COMPLETE, Ended.UNCHANGED, Ended.STOPPED, Ended.FAILED)
_LAST_SUCCESS = "svc_dist_merge_success_timestamp_seconds"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def of_progress(figures: Mapping[str, float | None], began: float, now: float) -> dict[str, float]:
    """The values of a running merge. ``figures``: see ``Progress.figures``."""
    names = {
        "units": "units",
        "units_done": "units_done",
        "bytes": "bytes",
        "bytes_done": "bytes_done",
        "work_share": "work_ratio",
        "eta_seconds": "eta_seconds",
    }
    values = {f"svc_dist_merge_{names[key]}": value for key, value in figures.items() if value is not None}
    return {
        "svc_dist_merge_running": 1,
        **values,
        "svc_dist_merge_start_timestamp_seconds": began,
        "svc_dist_merge_updated_timestamp_seconds": now,
    }


def of_outcome(outcome: Outcome, last: Mapping[str, float]) -> dict[str, float]:
    """The values of a start that ended. ``last``: those of its progress, where it ran units."""
    values = dict(last) | {
        "svc_dist_merge_running": 0,
        "svc_dist_merge_start_timestamp_seconds": outcome.started,
        "svc_dist_merge_updated_timestamp_seconds": outcome.ended,
        "svc_dist_merge_duration_seconds": outcome.ended - outcome.started,
        "svc_dist_merge_exit_code": outcome.exit_code,
    }
    values |= {f'svc_dist_merge_result{{result="{one}"}}': int(outcome.state is one) for one in RESULTS}
    summary = outcome.summary
    if summary is not None and outcome.exit_code == 0:
        values |= {
            "svc_dist_merge_units": summary.units,
            "svc_dist_merge_units_done": summary.units,
            "svc_dist_merge_bytes": summary.bytes_in + summary.bytes_out,
            "svc_dist_merge_bytes_done": summary.bytes_in + summary.bytes_out,
            "svc_dist_merge_work_ratio": 1,
            "svc_dist_merge_eta_seconds": 0,
            _LAST_SUCCESS: outcome.ended,
        }
    return values


def text_of(values: Mapping[str, float], output: str) -> bytes:
    """The values in Prometheus's text format. A label in a name (``name{result="x"}``) stays."""
    label = output.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    lines: list[str] = []
    for name, about in METRICS.items():
        found = [(key, value) for key, value in values.items() if key.partition("{")[0] == name]
        if found:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge"]
        for key, value in found:
            more = key.partition("{")[2].rstrip("}")
            lines.append(f'{name}{{output="{label}"{"," if more else ""}{more}}} {value:.15g}')
    return "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")


def write_file(file: Path, values: Mapping[str, float], output: str) -> None:
    """Replace a text file in one step. The last success stays where this start had none. Raises StorageError."""
    kept: dict[str, float] = {}
    if _LAST_SUCCESS not in values and (earlier := _last_success(file)) is not None:
        kept = {_LAST_SUCCESS: earlier}
    staged = file.with_name(f".{file.name[:50]}.{uuid.uuid4().hex}")  # the collector reads names that end with .prom
    with os_errors(f"cannot write --metrics-file {file}"):
        try:
            staged.write_bytes(text_of({**values, **kept}, output))
            os.chmod(staged, 0o644)  # noqa: PTH101  (another user's collector reads it)
            staged.replace(file)
        finally:
            staged.unlink(missing_ok=True)


def _last_success(file: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        found = re.search(rf"^{_LAST_SUCCESS}(?:{{.*}})? (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        return None if found is None else float(found[1])
    return None


def push_path(output: str) -> str:
    """The path of a pushgateway's group for this output: in base64, as it asks for of labels with a slash.

    The gateway keeps the last success where a push has none.
    """
    label = base64.urlsafe_b64encode(output.encode("utf-8", "backslashreplace")).decode()
    return f"metrics/job/svc_dist/merge@base64/{label}"


def require_writable(file: Path) -> None:
    """Raise StorageError or OutputError, before any work, where a metrics file could not be written."""
    if not file.name:
        raise OutputError("--metrics-file names no file", "name one, such as merge.prom")
    require_replaceable(file)
    folder = file.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"--metrics-file: {folder} is no folder that this user may write to", "create it first")
