"""What ``svc-dist inspect`` shows of a set of experts, to compare with what SVC gains on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.lm.grid import SVC
from benchmarks.quality.merging import Place, write_recipe
from benchmarks.quality.results import write

FILE = "inspection.json"


def write_inspection(where: Place, calibrated: Path | None = None) -> None:
    """Write the figures of a set, once. ``calibrated``: the merged plain sum with SVC at 1/K, whose report has them."""
    file = where.folder / FILE
    if file.exists():
        return
    if calibrated is not None:
        report = json.loads((calibrated / "merge_report.json").read_text(encoding="utf-8"))
    else:
        recipe = write_recipe(SVC[:1], where)
        command = [sys.executable, "-m", "svc_dist", "inspect", str(recipe), "--json", "--slots", "1"]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    write(file, figures(report))


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """How many times the plain sum counts what the experts learned, and the leading direction of the median matrix;
    gamma, the mean cosine between experts, and the norm of each expert's delta over the base's."""
    from svc_dist.report.diagnosis import Diagnosis
    from svc_dist.run_folder.report import MergeReport

    found = Diagnosis(MergeReport.parse(report, "the inspection"))
    base = sum(found.grams[name][1] for name in found.compared if name in found.grams)
    norms = np.sqrt(np.diag(found.total(found.compared)) / base)
    return {
        "times": found.times_counted(),
        "gamma": found.gamma(),
        "cosine": found.mean_cosine(found.compared),
        "leading": float(np.median([matrix.summary["inflation"][0] for matrix in found.calibrated])),
        "norms": [float(norm) for norm in norms],
    }
