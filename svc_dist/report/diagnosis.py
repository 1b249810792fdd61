"""Where experts are over-counted: summaries of matrices and deltas, by layer and kind of module."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svc_dist.run.provenance.local_paths import short_names
from svc_dist.run_folder.report import MergeReport
from svc_dist.tensor_names import EMBEDDING_PATTERNS, TensorName, is_convolution, matches, parse_name

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Matrix:
    """One matrix of a merge: its tensor, and its summary in ``merge_report.json``."""

    tensor: str
    name: TensorName
    summary: Mapping[str, Any]


class Diagnosis:
    """Figures about the directions of a merge's matrices, from its report or from an inspection."""

    def __init__(self, report: MergeReport) -> None:
        self.report = report
        self.experts = short_names([model.label for model in report.models[1:]])
        tensors = dict.fromkeys([*(entry["tensor"] for entry in report.matrices), *self.grams])
        self.names = {tensor: parse_name(tensor) for tensor in tensors}
        self.matrices = [Matrix(entry["tensor"], self.names[entry["tensor"]], entry) for entry in report.matrices]
        self._several_stacks = len({name.stack for name in self.names.values() if name.layer is not None}) > 1

    def kind(self, name: TensorName) -> str:
        """The kind of module, with its stack where there are several."""
        return f"{name.stack}: {name.kind}" if self._several_stacks and name.stack else name.kind

    @property
    def calibrated(self) -> list[Matrix]:
        """The matrices that SVC has analysed."""
        return [matrix for matrix in self.matrices if "gamma_by_energy" in matrix.summary]

    @cached_property
    def grams(self) -> dict[str, tuple[Array, float]]:
        """For each tensor the inner products of its deltas ``(K, K)`` and ``||W0||^2``."""
        grams: dict[str, tuple[Array, float]] = {}
        for entry in self.report.deltas:  # several for a tensor that several units merged
            gram, base = grams.get(entry["tensor"], (0.0, 0.0))
            models = entry.get("models", range(len(self.experts) + 1))[1:]
            square = _square(entry["gram"], models, len(self.experts))
            grams[entry["tensor"]] = gram + square, base + float(entry["base"])
        return grams

    def total(self, tensors: Iterable[str] | None = None) -> Array:
        """The inner products ``(K, K)`` of the experts' deltas of these tensors (None: all), joined to one vector."""
        names = self.grams if tensors is None else tensors
        grams = (self.grams[name][0] for name in names if name in self.grams)
        return sum(grams, start=np.zeros((len(self.experts), len(self.experts))))

    def overlap(self, tensors: Iterable[str] | None = None) -> Array:
        """Cosines ``(K, K)`` between the experts' deltas of these tensors (None: all)."""
        total = self.total(tensors)
        norms = np.sqrt(np.diag(total))
        scale = np.outer(norms, norms)
        cosines: Array = np.divide(total, scale, out=np.zeros_like(total), where=scale > 0)
        return cosines

    def by_layer(self) -> dict[int, list[str]]:
        """The tensors of each layer, layers in order."""
        layers: dict[int, list[str]] = {}
        for name in self.grams:
            layer = self.names[name].layer
            if layer is not None:
                layers.setdefault(layer, []).append(name)
        return dict(sorted(layers.items()))

    def norms(self) -> tuple[list[int], Array]:
        """Layers, and ``||Di|| / ||W0||`` of each layer and expert ``(layers, K)``."""
        layers = self.by_layer()
        rows = []
        for names in layers.values():
            squares = np.sum([np.diag(self.grams[name][0]) for name in names], axis=0)
            base = sum(self.grams[name][1] for name in names)
            rows.append(np.sqrt(squares / base) if base else np.full(len(squares), np.nan))
        return list(layers), np.array(rows).reshape(len(layers), len(self.experts))

    def weight(self, matrix: Matrix) -> float:
        """The weight of a matrix in means over the model: the energy of the deltas' sum in its tensor."""
        gram = self.grams.get(matrix.tensor)
        return max(float(gram[0].sum()), 0.0) if gram is not None else 1.0

    def gamma(self, matrices: Iterable[Matrix] | None = None) -> float:
        """The mean gamma of these matrices (None: all), weighted by energy; NaN for none."""
        chosen = self.calibrated if matrices is None else list(matrices)
        weights = np.array([self.weight(matrix) for matrix in chosen])
        if not chosen or not weights.sum():
            return float("nan")
        return float(np.average([matrix.summary["gamma_by_energy"] for matrix in chosen], weights=weights))

    def times_counted(self, tensors: Iterable[str] | None = None) -> float:
        """How many times the plain sum of the experts counts what they learnt: ``||sum Di||^2 / sum ||Di||^2`` over
        these tensors; None: those ``compared``; NaN without.

        It is the mean of SVC's ``<S, Di> / ||Di||^2`` over the experts, by their energy: 1 where they share nothing,
        K where all K learned the same. It is the same for every merge of these experts, and for their inspection.
        """
        return _times(self.total(self.compared if tensors is None else tensors))

    def times_without(self) -> list[float]:
        """For each expert, how many times the plain sum of the others counts what they learnt."""
        total = self.total(self.compared)
        keep = [[other for other in range(len(total)) if other != left_out] for left_out in range(len(total))]
        return [_times(total[np.ix_(rows, rows)]) for rows in keep]

    @cached_property
    def compared(self) -> list[str]:
        """The tensors that a verdict goes by: those taken as matrices, else those that a spectral step would take."""
        if self.matrices:
            return list(dict.fromkeys(matrix.tensor for matrix in self.matrices))
        found = [tensor.name for tensor in self.report.tensors if len(tensor.shape) > 1]
        return [name for name in found if not (matches(name, EMBEDDING_PATTERNS) or is_convolution(name))] or found

    @cached_property
    def times(self) -> dict[str, float]:
        """How many times the plain sum counts each of the ``compared`` tensors that some expert changes."""
        times = {name: _times(self.grams[name][0]) for name in self.compared if name in self.grams}
        return {name: value for name, value in times.items() if not math.isnan(value)}

    def mean_cosine(self, tensors: Iterable[str] | None = None) -> float:
        """The mean cosine between different experts; NaN for one expert."""
        cosines = self.overlap(tensors)
        return float(cosines[~np.eye(len(cosines), dtype=bool)].mean()) if len(cosines) > 1 else float("nan")


def label(matrix: Matrix) -> str:
    """A matrix's name, with its number where its tensor holds several."""
    number = matrix.summary.get("matrix", 0)
    return f"{matrix.tensor}[{number}]" if number else matrix.tensor


def _times(gram: Array) -> float:
    alone = float(np.trace(gram))
    return float(gram.sum()) / alone if alone > 0 else float("nan")


def _square(upper: list[float], models: Sequence[int], size: int) -> Array:
    """A symmetric matrix over ``size`` experts, from the upper triangle of that over these models, row by row."""
    rows, columns = _upper(tuple(models))
    whole = np.zeros((size + 1, size + 1))
    whole[rows, columns] = upper
    whole[columns, rows] = upper
    return whole[1:, 1:]


@functools.cache
def _upper(models: tuple[int, ...]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    rows, columns = np.triu_indices(len(models))
    return np.array(models)[rows], np.array(models)[columns]
