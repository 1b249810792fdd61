"""What a merge method and a calibration declare: parameters, cost, and the function that computes them.

Declarations name functions as ``module:name`` and load them when they are called, so that recipes can be checked and
plans made without importing torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from svc_dist.errors import RecipeError
from svc_dist.methods.costs import Memory, Operations
from svc_dist.methods.parameters import LAMBDA, WEIGHT, Deferred, Parameter

if TYPE_CHECKING:
    from svc_dist.methods.deltas import TaskDeltas

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a method and a calibration have in common.

    ``function``: ``module:name``; a module with a leading dot lies in this package. ``work(m, n, K, precision)``:
    estimated operations by kind for one ``(m, n)`` matrix and K experts; ``memory(m, n, K, precision)``: the peak of
    anonymous bytes for it. ``version`` is raised whenever results change; it is part of a plan's fingerprint.
    ``symmetric``: of transposed matrices it makes the transpose of what it makes of the matrices. ``experimental``: no
    measurement of this project says yet when to choose it, so that a later release may drop it.

    ``several``: the parameter of which one call takes several values, because they share a decomposition: it is passed
    as a list, and the function yields one result for each value, in order. Without it the function takes one set of
    parameters and returns one result.

    ``batched``: the form of ``function`` for many small matrices at once on a device, where there is one (``batches``).
    """

    name: str
    function: str
    doc: str
    work: Operations
    memory: Memory
    source: str = ""
    parameters: tuple[Parameter, ...] = ()
    several: str | None = None
    version: int = 1
    symmetric: bool = False
    experimental: bool = False
    batched: str | None = None

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        return self.parameters

    @property
    def tells_sides(self) -> bool:
        """Whether its result depends on which side of a matrix is that of the outputs."""
        return not self.symmetric

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.all_parameters if parameter.name == name), None)

    def refuse_unknown(self, names: Iterable[str], where: Callable[[str], str] = "".format) -> None:
        """Raise RecipeError for a name that is none of the parameters. ``where``: what a message begins with."""
        for name in names:
            if self.parameter(name) is None:
                known = ", ".join(parameter.name for parameter in self.all_parameters) or "none"
                raise RecipeError(
                    f"{where(name)}{self.name} takes no parameter '{name}'; known: {known}", code="unknown-parameter"
                )

    def results(self, sets: Sequence[Mapping[str, Any]], *data: Any) -> Iterator[tuple[list[int], Any]]:
        """Each distinct result of these complete parameter sets, with the indices of the sets that ask for it."""
        return results(self.function, self.several, sets, *data)


@dataclass(frozen=True, kw_only=True)
class Method(Declaration):
    """A merge method.

    ``elementwise`` methods take every tensor: ``function(deltas, **parameters)`` gets the deltas of one chunk and
    returns the merged delta of that shape, None for zero, or ``Copy``. ``spectral`` ones take whole matrices and return
    ``Merged``.

    ``access``: how often deltas are read: ``one pass``, ``two passes`` (statistics of the whole tensor first, so that a
    tensor is never split), ``all experts`` at once. ``statistics``: the function that makes the first pass, whose
    result ``function`` gets as ``statistics``. ``whole_rows``: chunks must hold whole rows of the tensor. ``zero``:
    where all deltas are zero the base passes through: in each ``chunk``, only when the whole ``tensor`` is zero (for
    methods that look at more than deltas), or ``never``.

    ``scaled``: takes ``lambda``. ``base``: whether the base takes part like an expert: ``origin`` (never), ``listed``
    (where the recipe lists it under ``models``), ``no base`` (where the recipe names no base, so that its first model
    is the base), ``model`` (always), ``none`` (there is one model and no delta); all but the first take recipes without
    a base. ``experts``: the smallest and the
    largest number of experts (None: no limit). ``requires`` raises RecipeError for complete parameters that do not
    go together.

    ``factored``: the form of ``function`` for the ``Cores`` of deltas that are all of low rank, where there is one, and
    for which parameters it holds (``factored_for``, None: for all). ``calibration_advice``: what measurements say
    against SVC at its default alpha on this method at its default ``lambda``.
    """

    family: Literal["elementwise", "spectral"]
    access: Literal["one pass", "two passes", "all experts"] = "one pass"
    statistics: str | None = None
    whole_rows: bool = False
    zero: Literal["chunk", "tensor", "never"] = "chunk"
    scaled: bool = True
    base: Literal["origin", "listed", "no base", "model", "none"] = "origin"
    experts: tuple[int, int | None] = (1, None)
    requires: Callable[[Mapping[str, Any]], None] | None = None
    factored: str | None = None
    factored_for: Callable[[Mapping[str, Any]], bool] | None = None
    calibration_advice: str | None = None

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        return (*self.parameters, LAMBDA) if self.scaled else self.parameters

    @property
    def tells_sides(self) -> bool:
        return self.whole_rows if self.family == "elementwise" else not self.symmetric

    def complete(
        self,
        experts: int,
        shared: Mapping[str, Any],
        by_expert: Sequence[Mapping[str, Any]] | None = None,
        base: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Every parameter with its checked value, ``per_model`` ones as a list over the experts.

        ``shared``: settings for all experts; ``by_expert``: those of each expert, which come first; ``base``: those of
        the base, where it takes part: then ``base_weight`` is its weight, else 0 for ``linear`` and None for others. A
        setting may be ``Deferred``; then ``require_possible`` is left to whoever has the values. Raises RecipeError.
        """
        each = [dict(shared, **own) for own in by_expert] if by_expert is not None else [shared] * experts
        for given in (shared, *each):
            self.refuse_unknown(given)
        values = {
            parameter.name: [parameter.complete(given, experts, self.name) for given in each]
            if parameter.per_model
            else parameter.complete(shared, experts, self.name)
            for parameter in self.all_parameters
        }
        if self.base not in ("origin", "none"):
            absent = 0.0 if self.base == "listed" else None
            values["base_weight"] = absent if base is None else WEIGHT.complete(base, experts, self.name)
        if not any_deferred(values):
            self.require_possible(values, experts)
        return values

    def require_possible(self, parameters: Mapping[str, Any], experts: int) -> None:
        """Raise RecipeError where these complete parameters do not go together, or with so many experts."""
        least, most = self.experts
        if experts < least or (most is not None and experts > most):
            takes = "exactly one expert" if most == 1 else f"at least {least} experts"
            if most is not None and most > least:
                takes = f"at most {most} experts"
            raise RecipeError(f"{self.name} takes {takes}, not {experts}", code="number-of-experts")
        if self.requires is not None:
            try:
                self.requires(parameters)
            except RecipeError as error:
                raise RecipeError(f"{self.name}: {error.message}", error.hint, code=error.code) from None

    def load(self) -> Callable[..., Any]:
        return load(self.function)

    def load_statistics(self) -> Callable[..., Any] | None:
        return None if self.statistics is None else load(self.statistics)

    def has_factored_form(self, parameters: Mapping[str, Any], calibration: Calibration | None = None) -> bool:
        """Whether there is a form for deltas of low rank with these complete parameters and this calibration."""
        if self.factored is None or (calibration is not None and not calibration.factored):
            return False
        return self.factored_for is None or self.factored_for(parameters)

    def factored_results(self, sets: Sequence[Mapping[str, Any]], *data: Any) -> Iterator[tuple[list[int], Any]]:
        """As ``results``, from the cores of deltas that are all of low rank."""
        assert self.factored is not None
        return results(self.factored, self.several, sets, *data)


@dataclass(frozen=True, kw_only=True)
class Calibration(Declaration):
    """A calibration of matrices on top of a merge method.

    ``function(merged, deltas, **parameters)`` takes what the method returned (``Merged``) and the deltas of one matrix,
    and returns a result with ``delta (m, n)`` and ``summary``, as ``Merged`` has them.

    ``factored``: it commutes with a change of orthonormal basis on either side, so that deltas of low rank can be
    calibrated as their cores.
    """

    factored: bool = False

    def complete(
        self, given: Mapping[str, Any], experts: int, where: Callable[[str], str] = "calibrate.{}".format
    ) -> dict[str, Any]:
        """The calibration's name under ``method``, and every parameter with its checked value.

        ``given``: settings, with or without ``method``; ``where``: how messages say where a key stands. Raises
        RecipeError.
        """
        settings = {name: value for name, value in given.items() if name != "method"}
        self.refuse_unknown(settings, lambda name: f"{where(name)}: ")
        return {"method": self.name} | {
            parameter.name: parameter.complete(settings, experts, f"{where(parameter.name)}: {self.name}")
            for parameter in self.parameters
        }


class Statistics:
    """What the first pass over a whole tensor yields for a set of parameters: made once, when it is first needed."""

    def __init__(self, deltas: TaskDeltas, method: Method) -> None:
        self._deltas, self._compute = deltas, method.load_statistics()
        self._made: list[tuple[Mapping[str, Any], dict[str, Any]]] = []

    def of(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The argument ``statistics`` of the method's function; nothing where the method makes no first pass."""
        if self._compute is None:
            return {}
        made = next((statistics for other, statistics in self._made if other == parameters), None)
        if made is None:
            made = {"statistics": self._compute(self._deltas, **parameters)}
            self._made.append((parameters, made))
        return made


def any_deferred(parameters: Mapping[str, Any]) -> bool:
    """Whether some value of a parameter depends on the tensor."""
    values = parameters.values()
    return any(
        isinstance(each, Deferred) for value in values for each in (value if isinstance(value, list) else [value])
    )


def load(function: str) -> Callable[..., Any]:
    """The function that a declaration names as ``module:name``."""
    module, name = function.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module, "svc_dist.methods"), name)
    return loaded


def results(
    function: str, several: str | None, sets: Sequence[Mapping[str, Any]], *data: Any
) -> Iterator[tuple[list[int], Any]]:
    """Each distinct result of ``function`` for these parameter sets, with the indices of the sets that ask for it.

    Sets that differ only in the parameter ``several`` are computed by one call. The results come one after another:
    none is kept here.
    """
    compute = load(function)
    for common, indices in grouped([{k: v for k, v in one.items() if k != several} for one in sets]):
        if several is None:
            yield indices, compute(*data, **common)
            continue
        values = grouped([sets[index][several] for index in indices])
        computed = iter(compute(*data, **common, **{several: [value for value, _ in values]}))
        for number, (_, positions) in enumerate(values, 1):
            result = next(computed)
            if number == len(values):
                del computed  # with what it kept for further results
            yield [indices[position] for position in positions], result
            del result


def grouped(values: Sequence[_Value]) -> list[tuple[_Value, list[int]]]:
    """Each distinct value with the indices at which it stands, in order."""
    groups: list[tuple[_Value, list[int]]] = []
    for index, value in enumerate(values):
        same = next((indices for other, indices in groups if other == value), None)
        groups.append((value, [index])) if same is None else same.append(index)
    return groups
