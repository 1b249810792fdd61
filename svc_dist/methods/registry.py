"""Which merge methods there are: what each takes, where it comes from, what it costs.

A method is one function and one line here. This module knows the functions by name only, so that recipes can be checked
and plans made without importing torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from svc_dist.methods import costs
from svc_dist.methods.parameters import Parameter


@dataclass(frozen=True)
class Method:
    """A merge method. ``function`` is ``module:name`` inside this package.

    ``family``: ``elementwise`` (takes every tensor, in pieces) or ``spectral`` (takes whole matrices).
    ``version`` is raised whenever results change; it is part of a plan's fingerprint.
    ``work(m, n, K, precision)``: estimated operations by kind for one ``(m, n)`` matrix and K experts;
    ``memory(m, n, K, precision)``: the peak of anonymous bytes for it.
    ``access``: how often deltas are read: ``one pass``, ``two passes`` (statistics of the whole tensor first, so that
    a tensor is never split), ``all experts`` at once.
    ``scaled``: takes ``lambda``. ``takes_base``: the base may take part with a weight.
    ``statistics``: ``module:name`` of the function that makes the first pass; its result is handed to ``function``.
    ``whole_rows``: pieces must hold whole rows of the tensor.
    ``zero``: where all deltas are zero the base passes through: in each ``piece``, only when the whole ``tensor`` is
    zero (for methods that look at more than deltas), or ``never``.
    ``experts``: the smallest and the largest number of experts (None: no limit).
    ``calibration_advice``: what is known against SVC at its default alpha on this method at its default ``lambda``.
    ``requires``: what a combination of one expert's parameter values violates, as a message, or None.
    ``several``: the parameter of which several values cost one decomposition: ``function`` and ``factored`` with
    ``_each`` at their ends take all of them, and give one result after another.
    ``factored``: ``module:name`` of the form for deltas that are all of low rank, where it has one, and for which
    parameters it holds (``factored_for``, None: for all).
    """

    name: str
    function: str
    family: str
    parameters: tuple[Parameter, ...]
    doc: str
    source: str
    work: costs.Operations
    memory: costs.Memory
    access: str = "one pass"
    scaled: bool = True
    takes_base: bool = False
    version: int = 1
    statistics: str | None = None
    whole_rows: bool = False
    zero: str = "piece"
    experts: tuple[int, int | None] = (1, None)
    requires: Callable[[Mapping[str, Any]], str | None] | None = None
    several: str | None = None
    factored: str | None = None
    factored_for: Callable[[Mapping[str, Any]], bool] | None = None
    calibration_advice: str | None = None

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.all_parameters if parameter.name == name), None)

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        return (*self.parameters, LAMBDA) if self.scaled else self.parameters

    def refusal(self, parameters: Mapping[str, Any], experts: int) -> str | None:
        """Why these complete parameters, or so many experts, cannot be; None when they can."""
        least, most = self.experts
        if experts < least or (most is not None and experts > most):
            takes = "exactly one expert" if most == 1 else f"at least {least} experts"
            return f"{self.name} takes {takes}, not {experts}"
        for index in range(experts if self.requires is not None else 0):
            per_model = {p.name: parameters[p.name][index] for p in self.parameters if p.per_model}
            if self.requires is not None and (reason := self.requires({**parameters, **per_model})) is not None:
                return f"{self.name}: {reason}"
        return None

    def load(self) -> Callable[..., Any]:
        return _load(self.function)

    def has_factored_form(self, parameters: Mapping[str, Any]) -> bool:
        """Whether there is a form for deltas of low rank with these complete parameters."""
        return self.factored is not None and (self.factored_for is None or self.factored_for(parameters))

    def load_factored(self) -> Callable[..., Any]:
        assert self.factored is not None
        return _load(self.factored)

    def load_each(self, factored: bool = False) -> Callable[..., Any]:
        """The function that takes several values of the parameter ``several``."""
        function = self.factored if factored else self.function
        assert function is not None
        return _load(f"{function}_each")

    def load_statistics(self) -> Callable[..., Any] | None:
        return None if self.statistics is None else _load(self.statistics)


@dataclass(frozen=True)
class Calibration:
    """A calibration of matrices on top of a merge method."""

    name: str
    function: str
    parameters: tuple[Parameter, ...]
    doc: str
    source: str
    work: costs.Operations
    memory: costs.Memory
    version: int = 1

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def _load(function: str) -> Callable[..., Any]:
    module, name = function.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(f"svc_dist.methods.{module}"), name)
    return loaded


#: Elements that element-wise arithmetic handles at once: small enough for the cache, large enough to hide call costs.
#: Part of the results' definition (vector loops treat the end of a chunk differently): it never depends on the machine.
CHUNK = 1 << 18
#: Entries that a search for a threshold samples at most, and collects at once.
SAMPLE, COLLECTED = 1 << 20, 1 << 22

LAMBDA = Parameter("lambda", float, 1.0, "scale of the merged delta: W = W0 + lambda * M")
_WEIGHT = Parameter("weight", float, 1.0, "weight of an expert", per_model=True)


def _normalize(default: bool) -> Parameter:
    return Parameter("normalize", bool, default, "divide by the sum of the weights")


_DENSITY = Parameter("density", float, 1.0, "share of an expert's entries that is kept", low=0, high=1, per_model=True)
_GAMMA = Parameter("gamma", float, 0.01, "share of the largest entries that is dropped as outliers",
                   low=0, high=1, per_model=True)  # fmt: skip
_EPSILON = Parameter("epsilon", float, 0.15, "how far a row's smallest and largest entry are below and above density",
                     low=0, high=1, per_model=True)  # fmt: skip
_SEED = Parameter("seed", int, 0, "which random draws: the same seed, tensor and expert give the same", low=0)
_RESCALE = Parameter("rescale", bool, True, "divide kept entries by the probability of being kept")
_NORM_KEPT = Parameter("rescale", bool, False, "scale what is kept of an expert to the L1 norm of its whole delta")
_INIT = Parameter("init", str, "sum", "what is merged to begin with: the deltas' sum, their mean, or nothing",
                  choices=("sum", "mean", "zero"))  # fmt: skip
_STEPS = Parameter("steps", int, 300, "steps of Adam", low=0)
_LR = Parameter("lr", float, 1e-5, "learning rate of Adam", low=0, low_open=True)


def della_range(values: Mapping[str, Any]) -> str | None:
    """Why ``density`` and ``epsilon`` do not go together; None when they do."""
    density, epsilon = values["density"], values["epsilon"]
    if density in (0, 1) or (density - epsilon > 0 and density + epsilon < 1):
        return None
    return (
        f"density {density:g} with epsilon {epsilon:g}: density - epsilon must be above 0 and density + epsilon "
        "below 1 (or density exactly 0 or 1)"
    )


def sum_of_deltas(values: Mapping[str, Any]) -> bool:
    """Whether ``linear`` adds up deltas alone: what is left of the base cancels out."""
    return bool(values["normalize"]) or sum(values["weight"]) + values["base_weight"] == 1


def memory_of_chunks(precision: str) -> int:
    """Anonymous bytes that chunked arithmetic and writing take, whatever the tensor's size."""
    return 12 * CHUNK * costs.item_size(precision) + (4 << 20)


def memory_of_selection(numel: int, precision: str) -> int:
    """Anonymous bytes that the first pass over a tensor of ``numel`` entries takes: a sample, and what it collects."""
    return (4 * min(numel, SAMPLE) + 2 * min(numel, COLLECTED)) * costs.item_size(precision)


METHODS = {
    method.name: method
    for method in (
        Method("linear", "elementwise.linear:linear", "elementwise", (_WEIGHT, _normalize(True)),
               "weighted mean of the models", "Wortsman et al. 2022, arXiv 2203.05482",
               costs.linear_work, costs.of_result, scaled=False, takes_base=True, zero="tensor",
               factored="spectral.factored:linear", factored_for=sum_of_deltas),
        Method("task_arithmetic", "elementwise.linear:task_arithmetic", "elementwise", (_WEIGHT, _normalize(False)),
               "weighted sum of the task deltas", "Ilharco et al. 2023, arXiv 2212.04089",
               costs.linear_work, costs.of_result, factored="spectral.factored:task_arithmetic"),
        Method("ties", "elementwise.ties:ties", "elementwise", (_WEIGHT, _DENSITY, _normalize(True), _NORM_KEPT),
               "largest entries only, then the majority's sign", "Yadav et al. 2023, arXiv 2306.01708",
               costs.per_entry(16), costs.of_result, access="two passes",
               statistics="elementwise.ties:ties_cuts"),
        Method("breadcrumbs", "elementwise.ties:breadcrumbs", "elementwise",
               (_WEIGHT, _DENSITY, _GAMMA, _normalize(False), _NORM_KEPT),
               "without the largest and the smallest entries", "Davari & Belilovsky 2023, arXiv 2312.06795",
               costs.per_entry(20), costs.of_result, access="two passes",
               statistics="elementwise.ties:breadcrumbs_cuts"),
        Method("breadcrumbs_ties", "elementwise.ties:breadcrumbs_ties", "elementwise",
               (_WEIGHT, _DENSITY, _GAMMA, _normalize(False), _NORM_KEPT),
               "breadcrumbs, then the majority's sign", "Davari & Belilovsky 2023, arXiv 2312.06795",
               costs.per_entry(22), costs.of_result, access="two passes",
               statistics="elementwise.ties:breadcrumbs_cuts"),
        Method("dare_linear", "elementwise.dare:dare_linear", "elementwise",
               (_WEIGHT, _DENSITY, _normalize(False), _RESCALE, _SEED),
               "random entries dropped, the rest rescaled", "Yu et al. 2023, arXiv 2311.03099",
               costs.per_entry(16), costs.of_result, version=2),
        Method("dare_ties", "elementwise.dare:dare_ties", "elementwise",
               (_WEIGHT, _DENSITY, _normalize(False), _RESCALE, _SEED),
               "DARE, then the majority's sign", "Yu et al. 2023, arXiv 2311.03099",
               costs.per_entry(20), costs.of_result, version=2),
        Method("della", "elementwise.dare:della", "elementwise",
               (_WEIGHT, _DENSITY, _EPSILON, _normalize(True), _RESCALE, _SEED),
               "DARE by magnitude rank within rows, then the majority's sign", "Deep et al. 2024, arXiv 2406.11617",
               costs.per_entry(300), costs.of_result, whole_rows=True, requires=della_range,
               version=2),
        Method("della_linear", "elementwise.dare:della_linear", "elementwise",
               (_WEIGHT, _DENSITY, _EPSILON, _normalize(False), _RESCALE, _SEED),
               "DARE by magnitude rank within rows", "Deep et al. 2024, arXiv 2406.11617",
               costs.per_entry(300), costs.of_result, whole_rows=True, requires=della_range,
               version=2),
        Method("slerp", "elementwise.interpolation:slerp", "elementwise",
               (Parameter("t", float, 0.5, "0 is the base, 1 the expert", low=0, high=1),),
               "spherical interpolation of the base and one expert", "Shoemake 1985",
               costs.per_entry(12), costs.of_result, scaled=False, access="two passes",
               statistics="elementwise.interpolation:slerp_coefficients", zero="tensor", experts=(1, 1)),
        Method("model_stock", "elementwise.interpolation:model_stock", "elementwise", (),
               "the average, as far from the base as the experts' angles say", "Jang et al. 2024, arXiv 2403.19522",
               costs.per_entry(10), costs.of_result, access="two passes",
               statistics="elementwise.interpolation:model_stock_ratio"),
        Method("sce", "elementwise.sce:sce", "elementwise",
               (Parameter("select_topk", float, 1.0, "share of the entries that vary that is kept", low=0, high=1),),
               "select by variance, calculate weights by energy, erase the minority's sign",
               "Wan et al. 2024, arXiv 2408.07990",
               costs.per_entry(40), costs.of_result, access="two passes",
               statistics="elementwise.sce:sce_selection"),
        Method("passthrough", "elementwise.linear:passthrough", "elementwise", (),
               "the one model's tensor, unchanged", "",
               costs.per_entry(1), costs.of_result, scaled=False, zero="never", experts=(1, 1)),
        Method("tsv_m", "spectral.subspaces:tsv_m", "spectral", (),
               "the experts' leading singular directions, decorrelated", "Gargiulo et al. 2025, arXiv 2412.00081",
               costs.tsv_m_work, costs.kept(costs.polar_memory), factored="spectral.factored:tsv_m",
               calibration_advice="with eight real experts alpha 1/K lost 4.0 points at lambda 1; alpha 0.5 gained 1.6 "
                                  "there, and lambda 0.5 with alpha 1/K gained 2.3 (docs/choosing.md)"),
        Method("iso_c", "spectral.subspaces:iso_c", "spectral", (),
               "the sum of the task deltas with a flat spectrum", "Marczak et al. 2025, arXiv 2502.04959",
               costs.iso_c_work, costs.kept(costs.iso_c_memory), factored="spectral.factored:iso_c"),
        Method("iso_cts", "spectral.subspaces:iso_cts", "spectral",
               (Parameter("common_space_fraction", float, 0.8, "share of the directions that is common to all experts",
                          low=0, high=1),),
               "common and expert-specific directions with a flat spectrum", "Marczak et al. 2025, arXiv 2502.04959",
               costs.iso_cts_work, costs.kept(costs.polar_memory), access="two passes"),
        Method("star", "spectral.subspaces:star", "spectral",
               (Parameter("eta", float, 40.0, "percent of an expert's nuclear norm that is kept",
                          low=0, low_open=True, high=100),),
               "the experts' leading directions, rescaled; averaged", "Lee et al. 2025, NAACL (STAR)",
               costs.star_work, costs.kept(costs.star_memory)),
        Method("wudi", "spectral.wudi:wudi", "spectral", (_STEPS, _LR),
               "least interference with every expert, by gradient descent", "Cheng et al. 2025, arXiv 2503.08099",
               costs.wudi_work, costs.kept(costs.wudi_memory),
               calibration_advice="with eight real experts alpha 1/K lost 0.5 points, and no alpha gained any "
                                  "(docs/choosing.md)"),
        Method("optmerge", "spectral.wudi:optmerge", "spectral", (_STEPS, _LR),
               "WUDI against denoised experts", "Wei et al. 2025, arXiv 2505.19892",
               costs.optmerge_work, costs.kept(costs.optmerge_memory), access="two passes",
               calibration_advice="with eight real experts alpha 1/K lost 0.6 points, and no alpha gained any "
                                  "(docs/choosing.md)"),
        Method("swudi", "spectral.swudi:swudi", "spectral",
               (Parameter("exp_time", float, 300.0, "how long the gradient flow from M0 runs", low=0, low_open=True),
                Parameter("rank_ratio", float, 0.65, "share of the input directions that is kept; the authors advise "
                          "0.85 for full fine-tunes of LLMs", low=0, low_open=True, high=1),
                _INIT),
               "WUDI's gradient flow in closed form, on the leading directions", "Wei et al. 2026, arXiv 2606.07289",
               costs.swudi_work, costs.kept(costs.swudi_memory), access="two passes", several="exp_time",
               factored="spectral.factored:swudi"),
        Method("swudi_a", "spectral.swudi:swudi_a", "spectral",
               (Parameter("rank_rule", str, "participation_sqrt", "how many directions are kept, from each spectrum",
                          choices=("participation_sqrt", "participation", "entropy", "stable_rank", "gavish_donoho"),
                          pattern=(r"cumvar_(0?\.\d*[1-9]\d*|1(\.0*)?)",
                                   "cumvar_<share>, with a share above 0 and at most 1")),
                _INIT),
               "WUDI's minimum on the leading directions", "Wei et al. 2026, arXiv 2606.07289",
               costs.swudi_work, costs.kept(costs.swudi_a_memory), access="two passes",
               factored="spectral.factored:swudi_a"),
    )
}  # fmt: skip

CALIBRATIONS = {
    calibration.name: calibration
    for calibration in (
        Calibration(
            "svc", "calibration.svc:svc",
            (Parameter("alpha", float, None, "floor of an expert's share; default 1/K, 1 only suppresses",
                       low=0, low_open=True),
             Parameter("side", str, "left", "compare in the column space (left) or the row space (right)",
                       choices=("left", "right"))),
            "Singular Value Calibration", "Li et al. 2026, arXiv 2602.05536",
            costs.svc_work, costs.kept(costs.svc_memory)),
    )
}  # fmt: skip
