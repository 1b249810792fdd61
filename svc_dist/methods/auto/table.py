"""The decision tables of ``auto``: the first row whose ranges hold decides. Each row names the table that supports it.

The tables are in docs/choosing.md. ``python -m benchmarks.quality.auto`` checks the rows against them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """``when``: the range of each feature, both ends included; ``keys``: those of a recipe that are chosen then.

    ``methods``: the merge methods that a row about calibration alone is for; all where there are none. ``title``: when,
    in words. ``evidence``: where the measurement is; empty where there is none yet.
    """

    title: str
    keys: Mapping[str, Any]
    because: str
    evidence: str
    when: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    methods: tuple[str, ...] = ()

    def holds(self, values: Mapping[str, Any], method: str | None = None) -> bool:
        """Whether the features of some experts lie in the row's ranges, and it is for this merge method."""
        return (not self.methods or method in self.methods) and all(
            low <= values[name] <= high for name, (low, high) in self.when.items()
        )


_SVC = {"method": "svc"}
_NONE = {"method": "none"}
_ONE = {"experts": (1, 1)}
_METHODS = "docs/choosing.md, Methods"

#: What `merge_method: auto` stands for.
MERGE_METHODS = (
    Row(
        "one expert",
        {"merge_method": "task_arithmetic", "parameters": {"lambda": 1.0}, "calibrate": _NONE},
        "with one expert nothing is counted twice; lambda 1 is the expert, a smaller one a mixture with the base",
        "docs/over-counting.md",
        when=_ONE,
    ),
    Row(
        "LoRA adapters only",
        {"merge_method": "tsv_m", "parameters": {"lambda": 0.5}, "calibrate": _SVC},
        "TSV-M with SVC was the best merge of three adapters of a language model, of one training script or not, 3 to "
        "5 points over TSV-M alone, and level with it for five; lambda 0.5 is the scale that suited all",
        "docs/choosing.md, A language model",
        when={"adapters": (1, 1)},
    ),
    Row(
        "six or more experts",
        {"merge_method": "tsv_m", "parameters": {"lambda": 0.5}, "calibrate": _SVC},
        "TSV-M at lambda 0.5 with SVC was the best of all merges with eight full fine-tunes of an encoder",
        _METHODS,
        when={"experts": (6, math.inf)},
    ),
    Row(
        "two to five experts",
        {"merge_method": "swudi", "parameters": {"exp_time": 300, "rank_ratio": 0.3}, "calibrate": _NONE},
        "SWUDI was the best merge of three and of five full fine-tunes of a language model, and 0.6 points below the "
        "best of four of an encoder",
        "docs/choosing.md, In short",
    ),
)

#: What `calibrate: auto` stands for, beside a merge method that the recipe names.
CALIBRATIONS = (
    Row("one expert", {"calibrate": _NONE}, "SVC changes nothing with one expert", "docs/over-counting.md", when=_ONE),
    Row(
        "many experts at full scale",
        {"calibrate": {"method": "svc", "alpha": 0.5}},
        "with eight experts at lambda 1, alpha 0.5 gained 1.6 points, and 1/K lost four",
        _METHODS,
        when={"experts": (6, math.inf), "lambda": (0.75, math.inf)},
        methods=("tsv_m",),
    ),
    Row(
        "at most five experts, or a smaller scale",
        {"calibrate": _SVC},
        "alpha 1/K gained 2.3 points with eight experts at lambda 0.5, and 2.0 with four at lambda 1",
        _METHODS,
        methods=("tsv_m",),
    ),
    Row(
        "any experts",
        {"calibrate": {"method": "svc", "alpha": 0.5}},
        "alpha 0.5 gained 1.3 points on iso_c and 3.0 on iso_cts, more than 1/K did",
        _METHODS,
        methods=("iso_c", "iso_cts"),
    ),
    Row(
        "any experts",
        {"calibrate": _NONE},
        "no alpha gained anything, and 1/K lost half a point with eight experts",
        _METHODS,
        methods=("wudi", "optmerge"),
    ),
    Row(
        "any experts",
        {"calibrate": _SVC},
        "alpha 1/K gained 3.8 to 10.8 points with eight experts",
        _METHODS,
        methods=("linear", "task_arithmetic", "ties", "dare_linear", "star"),
    ),
    Row(
        "any experts",
        {"calibrate": _SVC},
        "alpha 1/K gained 0.7 points with eight experts and 1.3 with four",
        _METHODS,
        methods=("swudi_a",),
    ),
    Row(
        "any experts",
        {"calibrate": _NONE},
        "alpha 1/K gained half a point with four experts and with eight, within the error of the measurement",
        _METHODS,
        methods=("swudi",),
    ),
    Row("any experts", {"calibrate": _NONE}, "no measurement here says that calibration helps this method", ""),
)
