"""What ``auto`` chooses from features, by the first row of a table that they fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from svc_dist.methods.auto.features import Features
from svc_dist.methods.auto.table import CALIBRATIONS, MERGE_METHODS

#: The word in a recipe.
AUTO = "auto"


@dataclass(frozen=True)
class AutoChoice:
    """What ``auto`` chose for a merge: the ``keys`` of a recipe that it stands for, why, and by which measurement.

    ``asked``: what the recipe has in their place.
    """

    asked: dict[str, Any]
    keys: dict[str, Any]
    because: str
    evidence: str
    features: Features

    @property
    def what(self) -> str:
        """``tsv_m (lambda 0.5), calibrated by svc``; of a calibration alone ``calibration svc (alpha 0.5)``."""
        calibration = self.keys.get("calibrate")
        if "merge_method" not in self.keys:
            return _named(self.keys["calibrate"], "no calibration", "calibration")
        method = str(self.keys["merge_method"]) + _listed(self.keys.get("parameters") or {})
        if calibration is None:
            return method
        return f"{method}, {_named(calibration, 'without calibration', 'calibrated by')}"

    @property
    def yaml(self) -> tuple[str, ...]:
        """The keys as a recipe has them, a line for each."""
        return tuple(f"{key}: {_in_yaml(value)}" for key, value in self.keys.items())

    @property
    def why(self) -> str:
        """``for 4 full fine-tunes: ... (docs/choosing.md, Methods)``."""
        support = self.evidence or "no table of docs/choosing.md supports this row yet"
        return f"for {self.features.kind}: {self.because} ({support})"


def choose(asked: Mapping[str, Any], features: Features, scale: float) -> AutoChoice:
    """The choice for a recipe: of a merge method with its calibration, or of a calibration for the method it names.

    ``asked``: ``merge_method`` and ``calibrate`` as the recipe has them; ``scale``: its ``lambda``.
    """
    values = {**vars(features), "lambda": scale}
    whole = asked["merge_method"] == AUTO
    table, method = (MERGE_METHODS, None) if whole else (CALIBRATIONS, asked["merge_method"])
    row = next(row for row in table if row.holds(values, method))
    keys = dict(row.keys)
    if whole and asked.get("calibrate") not in (None, AUTO):
        del keys["calibrate"]  # the recipe says it
    return AutoChoice(dict(asked), keys, row.because, row.evidence, features)


def _named(calibration: Mapping[str, Any], none: str, some: str) -> str:
    """A calibration in words: ``none`` for none, else its name and parameters after ``some``."""
    if calibration["method"] == "none":
        return none
    rest = {key: value for key, value in calibration.items() if key != "method"}
    return f"{some} {calibration['method']}{_listed(rest)}"


def _in_yaml(value: Any) -> str:
    """A value as YAML on one line; a calibration without parameters by its name."""
    if isinstance(value, Mapping) and list(value) == ["method"]:
        value = value["method"]
    return json.dumps(value).replace('"', "")


def _listed(values: Mapping[str, Any]) -> str:
    return " (" + ", ".join(f"{key} {value}" for key, value in values.items()) + ")" if values else ""
