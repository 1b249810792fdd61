"""What to do with a recipe, by the evidence of an inspection or a merge: in words, with keys to paste."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from svc_dist.errors import printable
from svc_dist.methods.method import Method
from svc_dist.methods.registry import METHODS
from svc_dist.report.diagnosis import Diagnosis
from svc_dist.report.effect import Effect, Kind
from svc_dist.report.similarity import coinciding
from svc_dist.report.verdict import CANCEL, MUCH

_SUMS = ("task_arithmetic", "linear")  # methods whose merged delta is a weighted sum of the experts'
_ENOUGH = 0.9  # times that a merge counts what experts learnt, from which on a larger weight gains nothing
_FAR_BELOW = 0.5  # of 1/K: weights from which SVC's alpha binds in all directions
_CALIBRATED: dict[str, Any] = {"calibrate": "svc"}


@dataclass(frozen=True)
class Advice:
    """``text``: what to do and why; ``keys``: of a recipe, in place of its own; none where it may stay as it is;
    ``command``: one to type, if any."""

    text: str
    keys: dict[str, Any] = dataclasses.field(default_factory=dict)
    command: str = ""


def advice(diagnosis: Diagnosis) -> Advice | None:
    """The one thing to do first. None where nothing was compared, and for a recipe that subtracts experts."""
    pair, recipe = coinciding(diagnosis), _Recipe(diagnosis)
    if any(weight < 0 for weight in recipe.weights):
        return None
    if pair is not None:
        left_out, stays = (printable(diagnosis.experts[number]) for number in (pair.first, pair.second))
        alike = f"{left_out} and {stays} nearly coincide (cosine {pair.cosine:.2f}): their sum counts one expert twice."
        if len(diagnosis.experts) == 2:
            return Advice(f"{alike} Use one of the two instead of a merge, or their average (merge_method: linear).")
        return Advice(f"{alike} Leave {left_out} out, then inspect the others.", recipe.without(pair.first))
    times = diagnosis.times_counted()
    if math.isnan(times) or len(diagnosis.experts) < 2:
        return None
    effect = Effect.of(matrix.summary for matrix in diagnosis.matrices)
    if effect is None or not diagnosis.report.ranges:
        return _of_plain_sum(recipe, times, effect)
    return _of_calibration(recipe, len(diagnosis.experts), effect) if diagnosis.calibrated else None


def _of_calibration(recipe: _Recipe, experts: int, effect: Effect) -> Advice:
    """Of a merge that SVC has calibrated."""
    weights = recipe.weights
    if recipe.method == "task_arithmetic" and weights and max(map(abs, weights)) < _FAR_BELOW / experts:
        return Advice(
            f"Use larger weights: these are far below 1/{experts}. Calibration amplifies a direction at most as much "
            "as its alpha allows, and cannot bring these deltas back to their size.",
            recipe.weighted(1.0),
        )
    if effect.kind is Kind.HARDLY_TOUCHED:
        return Advice("Keep the recipe as it is. Calibration changes next to nothing here, and can be left out.")
    return Advice(
        "Keep the recipe as it is: calibration counts once what the experts share. To see what it is worth, merge "
        "without calibrate as well, score both models, and compare the two.",
        command="svc-dist report CALIBRATED --compare PLAIN",
    )


def _of_plain_sum(recipe: _Recipe, times: float, effect: Effect | None) -> Advice:
    """Of an inspection, or of a merge without calibration.

    How little experts share is no reason against calibration: it gained most where a sum counted what they learned 1.04
    times (docs/choosing.md, the language model).
    """
    method = METHODS.get(recipe.method)
    if method is not None and method.family == "spectral":
        return _of_spectrum(method)
    shared = f"the plain sum counts what the experts learned {times:.2f} times."
    if effect is not None and effect.kind is Kind.HARDLY_TOUCHED and CANCEL <= times <= MUCH:
        return Advice(f"Keep the recipe as it is: {shared} Calibration would change next to nothing.")
    if recipe.calibrated:
        return Advice(f"Keep calibrate in the recipe: {shared}")
    if times > MUCH:
        counted = recipe.counted
        left = (
            f" This recipe's weights bring that to {counted:.2f} on average, and"
            if counted is not None and counted < _ENOUGH
            else " A smaller weight would"
        )
        return Advice(f"Calibrate: {shared}{left} shrink what they do not share as well.", _CALIBRATED)
    if times < CANCEL:
        return Advice(
            f"Calibrate: the experts work against each other, and {times:.2f} of what they learned is left in their "
            "sum. Calibration lifts the directions in which they cancel.",
            _CALIBRATED,
        )
    return Advice(
        f"Calibrate, and compare: {shared} Calibration needs no scale, and gained 13 points over the best one for "
        "experts of a language model that share as little, 2.5 to 3.8 for experts that share more (docs/choosing.md).",
        _CALIBRATED,
    )


def _of_spectrum(method: Method) -> Advice:
    """Of a method that does not add deltas up."""
    own = f"{method.name} builds a spectrum of its own, which removes part of the over-counting."
    if method.calibration_advice is not None:
        return Advice(f"Keep the recipe as it is: {own} Calibration on top of it: {method.calibration_advice}.")
    return Advice(f"{own} Whether calibration adds to it, a second merge shows: score both.", _CALIBRATED)


class _Recipe:
    """What the recipe of a merge says of its sum, where it says so in plain words."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        self._diagnosis, self._data = diagnosis, diagnosis.report.recipe
        self.method = str(self._data.get("merge_method", ""))
        entries = self._data.get("models")
        plain = [entry for entry in entries if _is_plain(entry)] if isinstance(entries, list) else []
        self._models: list[dict[str, Any]] = plain if len(plain) == len(diagnosis.experts) else []

    @property
    def calibrated(self) -> bool:
        given = self._data.get("calibrate") or []
        each = given if isinstance(given, list) else [given]
        return any((one.get("method") if isinstance(one, dict) else one) != "none" for one in each)

    @property
    def weights(self) -> list[float]:
        """The experts' weights; none where they are not one number for each."""
        shared = self._data.get("parameters") or {}
        found = [(entry.get("parameters") or {}).get("weight", shared.get("weight", 1.0)) for entry in self._models]
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in found)
        return [float(one) for one in found] if numbers else []

    @property
    def counted(self) -> float | None:
        """How many times the weighted sum counts what experts learnt; None for other methods, or if unknown."""
        shared, weights = self._data.get("parameters") or {}, np.array(self.weights)
        scale = shared.get("lambda", 1.0)
        if (
            self.method not in _SUMS
            or not len(weights)
            or not isinstance(scale, int | float)
            or self._data.get("outputs")
        ):
            return None
        if shared.get("normalize", self.method == "linear"):
            weights = weights / weights.sum() if weights.sum() else weights
        gram = self._diagnosis.total(self._diagnosis.compared)
        return float(scale * (weights @ gram).sum() / np.trace(gram))

    def without(self, number: int) -> dict[str, Any]:
        """The models but one."""
        kept = [entry for other, entry in enumerate(self._models) if other != number]
        return {"models": list(map(_shown, kept))} if kept else {}

    def weighted(self, weight: float) -> dict[str, Any]:
        """A plain sum with this weight for each expert."""
        entries = [
            _shown(entry) | {"parameters": {**(entry.get("parameters") or {}), "weight": weight}}
            for entry in self._models
        ]
        if not entries:
            return {}
        parameters: dict[str, Any] = {"parameters": {}} if self._data.get("parameters") else {}
        return {"models": entries, "merge_method": "task_arithmetic", **parameters}


def _is_plain(entry: Any) -> bool:
    return isinstance(entry, dict) and "model" in entry


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    """A model of a recipe without the keys that say nothing."""
    return {key: value for key, value in entry.items() if value or value == 0}
