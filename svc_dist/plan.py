"""The plan: every output shard, every tensor's place and every unit of work, from a recipe and headers alone."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from svc_dist import dialect
from svc_dist.checkpoint.access import DEFAULT_ACCESS, Access
from svc_dist.checkpoint.adapter import Expert, Opened, attach, open_expert
from svc_dist.checkpoint.dtype import FLOAT_DTYPES, RECIPE_DTYPES
from svc_dist.checkpoint.header import TensorSpec
from svc_dist.checkpoint.index import Checkpoint, open_checkpoint
from svc_dist.checkpoint.layout import Shard, ShardFile, pack, parts, ranges
from svc_dist.checkpoint.source import ByteRange
from svc_dist.choices import choices
from svc_dist.companions import Companions, companions
from svc_dist.disposition import Batch, Decision, Disposition, decide, matches
from svc_dist.errors import RecipeError
from svc_dist.inputs import Factors, Model, Slot, held, model_of
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from svc_dist.renames import renamed
from svc_dist.schema import Recipe
from svc_dist.sizes import parse_size
from svc_dist.unit_costs import memory_of_results, takes_matrices, work_of_results

#: Raised whenever the same inputs would be planned or written differently; a part of the fingerprint.
PLAN_VERSION = 1
#: Moving a byte, in the time of this many floating-point operations; for ordering and progress, not for promises.
_WORK_PER_BYTE = 12.0


@dataclass(frozen=True)
class Settings:
    """What is fixed when a run is created because results depend on it."""

    precision: str = "mixed"
    threads_per_unit: int = 1
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One output tensor: its place in shard ``shard``, what becomes of it, and where its inputs are (base first).

    ``disposition`` counts into the plan's list. ``batch``: ``(count, m, n)`` where it is matrices. ``slots`` hold only
    what is read: of a copied tensor the one model it comes from, of a merged one all models, None for an expert that
    has the base's. ``factors``: what an adapter adds to each expert (to the copied tensor), empty where none does.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    start: int
    end: int
    disposition: int
    batch: Batch | None
    slots: tuple[Slot | None, ...]
    factors: tuple[Factors | None, ...] = ()

    @property
    def row(self) -> int:
        """Elements of a row."""
        return self.shape[-1] if self.shape else 1

    def reads(self, first: int, last: int) -> Iterator[tuple[int, ByteRange]]:
        """The byte ranges that elements ``[first, last)`` are made from, each with the number of its input."""
        for slot in self.slots:
            if slot is not None:
                yield slot.input, slot.part(first, last)
        for factors in self.factors if last > first else ():
            if factors is not None:
                left, right = factors.parts(first, last, self.row)
                yield factors.left.input, left
                yield factors.right.input, right

    def ranks(self) -> list[int] | None:
        """The rank of each expert's delta; None where one is not made of an adapter's factors."""
        if any(slot is not None for slot in self.slots[1:]):
            return None
        return [0 if factors is None else factors.rank for factors in self.factors]


@dataclass(frozen=True, slots=True)
class Unit:
    """One contiguous range ``[start, end)`` of a shard: the pieces ``(tensor, first element, last element)`` in it.

    Costs: bytes read and written, floating-point operations, and the peak of anonymous memory in bytes.
    """

    id: str
    shard: int
    start: int
    end: int
    pieces: tuple[tuple[int, int, int], ...]
    bytes_in: int
    bytes_out: int
    flops: float
    memory: int

    @property
    def work(self) -> float:
        """Estimated work in operations, for ordering and for progress."""
        return self.flops + _WORK_PER_BYTE * (self.bytes_in + self.bytes_out)


@dataclass(frozen=True)
class Result:
    """One of several results of a plan: its folder inside OUTPUT ("" for OUTPUT itself), and what becomes of each
    tensor there (in the place of ``Plan.dispositions``)."""

    path: str
    dispositions: tuple[Disposition, ...]


@dataclass(frozen=True)
class Plan:
    """A whole merge, decided. JSON in and out; the same inputs always give the same plan.

    Several results have the same shards, each in its folder: ``shards`` are those of the first, then those of the next.
    A unit writes its range in each of them. ``dispositions`` are those of the first.
    """

    fingerprint: str
    recipe: dict[str, Any]
    settings: Settings
    models: tuple[Model, ...]
    dispositions: tuple[Disposition, ...]
    shards: tuple[ShardFile, ...]
    tensors: tuple[PlannedTensor, ...]
    not_written: tuple[tuple[str, str], ...]
    units: tuple[Unit, ...]
    warnings: tuple[str, ...]
    methods: dict[str, int]
    companions: Companions = field(default_factory=Companions)
    outputs: tuple[Result, ...] = ()

    @property
    def results(self) -> tuple[Result, ...]:
        """What is made: one result in OUTPUT itself, or several, each in a folder of its own."""
        return self.outputs or (Result("", self.dispositions),)

    @property
    def count(self) -> int:
        """Shards of one result."""
        return len(self.shards) // len(self.results)

    def written(self, unit: Unit) -> list[int]:
        """The shards that a unit writes a range of, one for each result."""
        return [result * self.count + unit.shard for result in range(len(self.results))]

    def shard_file(self, shard: int) -> str:
        """A shard's name in the folder of its result."""
        return self.shards[shard].file.rpartition("/")[2]

    @property
    def bytes_in(self) -> int:
        return sum(unit.bytes_in for unit in self.units)

    @property
    def bytes_out(self) -> int:
        return sum(unit.bytes_out for unit in self.units)

    @property
    def tensor_bytes(self) -> int:
        """The index's ``total_size``."""
        return sum(tensor.end - tensor.start for tensor in self.tensors)

    @functools.cached_property
    def shard_tensors(self) -> tuple[tuple[PlannedTensor, ...], ...]:
        """The tensors of each shard in order of their bytes."""
        groups: list[list[PlannedTensor]] = [[] for _ in range(self.count)]
        for tensor in self.tensors:
            groups[tensor.shard].append(tensor)
        return tuple(tuple(group) for group in groups) * len(self.results)

    @functools.cached_property
    def parts(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """For each unit the number of its first part in its shard's upload, and the sizes of its parts."""
        sent = [0] * self.count
        found: dict[str, tuple[int, tuple[int, ...]]] = {}
        for unit in self.units:
            sizes = tuple(parts(unit.end - unit.start, self.shards[unit.shard].size))
            found[unit.id] = (sent[unit.shard] + 1, sizes)
            sent[unit.shard] += len(sizes)
        return found

    @functools.cached_property
    def unit(self) -> dict[str, Unit]:
        return {unit.id: unit for unit in self.units}

    @functools.cached_property
    def inputs(self) -> tuple[Model, ...]:
        """Every location that is read: the models, then the adapters that models have beside."""
        return (*self.models, *(model.adapter for model in self.models if model.adapter is not None))

    def wanted(self, unit: Unit) -> list[list[ByteRange]]:
        """The ranges of each input's files that a unit reads."""
        ranges: list[list[ByteRange]] = [[] for _ in self.inputs]
        for tensor, first, last in unit.pieces:
            for number, part in self.tensors[tensor].reads(first, last):
                ranges[number].append(part)
        return ranges

    def layout(self, shard: int) -> Shard:
        """The layout of one shard, with which its header is rendered."""
        tensors = self.shard_tensors[shard]
        file = self.shards[shard]
        specs = tuple(TensorSpec(t.name, t.dtype, t.shape, file.file, t.start, t.end) for t in tensors)
        return Shard(file.file, tensors[0].start if tensors else file.size, file.size, specs)

    def to_json(self) -> str:
        return json.dumps(_plain(self), separators=(",", ":"), default=_plain)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        data = json.loads(text)
        return cls(
            fingerprint=data["fingerprint"],
            recipe=data["recipe"],
            settings=Settings(**data["settings"]),
            models=tuple(Model.from_plain(entry) for entry in data["models"]),
            dispositions=tuple(Disposition(**entry) for entry in data["dispositions"]),
            shards=tuple(ShardFile(**entry) for entry in data["shards"]),
            tensors=tuple(_tensor_from(entry) for entry in data["tensors"]),
            not_written=tuple((name, reason) for name, reason in data["not_written"]),
            units=tuple(
                Unit(**{**entry, "pieces": tuple(tuple(piece) for piece in entry["pieces"])}) for entry in data["units"]
            ),
            warnings=tuple(data["warnings"]),
            methods=data["methods"],
            companions=Companions(**data["companions"]),
            outputs=tuple(
                Result(entry["path"], tuple(Disposition(**item) for item in entry["dispositions"]))
                for entry in data["outputs"]
            ),
        )


def _plain(item: Any) -> dict[str, Any]:
    """The fields of a dataclass, not copied all the way down as ``asdict`` would: a plan has a million values."""
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def _tensor_from(entry: dict[str, Any]) -> PlannedTensor:
    batch = entry["batch"]
    return PlannedTensor(
        **{
            **entry,
            "shape": tuple(entry["shape"]),
            "batch": None if batch is None else (batch[0], batch[1], batch[2]),
            "slots": tuple(None if slot is None else Slot(**slot) for slot in entry["slots"]),
            "factors": tuple(None if item is None else Factors.from_plain(item) for item in entry["factors"]),
        }
    )


def make_plan(recipe: Recipe, settings: Settings, access: Access = DEFAULT_ACCESS) -> Plan:
    """Plan a merge. Reads headers, indexes and configs only.

    ``access``: how storages are reached. Raises RecipeError, PlanError (tensors that need a rule), DamagedInputError,
    StorageError.
    """
    results = recipe.results()
    alternatives = [choices(result) for _, result in results]
    chosen = alternatives[0]
    locations = [chosen.base, *chosen.experts]
    with ThreadPoolExecutor(min(8, len(locations))) as pool:
        opening = [pool.submit(open_expert, location, access) for location in chosen.experts]
        base = open_checkpoint(chosen.base, access)
        opened = [Opened(base.location, base, None), *(expert.result() for expert in opening)]
    if recipe.base_model is None and any(expert.model is None for expert in opened):
        raise RecipeError(f"{recipe.where('models')}: an adapter is merged over a base: base_model is missing")
    models, renames = renamed(recipe, locations, opened)
    assert models[0].model is not None
    base = models[0].model
    experts = [attach(model, base) for model in models[1:]]
    whole = [expert.whole for expert in experts]
    each = [decide(one, its, base, whole) for (_, one), its in zip(results, alternatives, strict=True)]
    decisions = each[0]
    written = [decision for decision in decisions if decision.disposition.kind in ("merged", "copied")]
    if not written:
        raise RecipeError(f"{recipe.where()}: nothing to write: the base {base.location} holds no tensors")

    specs = [(d.name, _written_dtype(d.spec.dtype, recipe), d.spec.shape) for d in written if d.spec is not None]
    layout = pack(specs, parse_size(recipe.max_shard_size))
    by_name = {alike[0].name: alike for alike in zip(*each, strict=True)}
    table, tensors = _place(layout, by_name, base, experts)
    outputs = tuple(Result(path, dispositions) for (path, _), dispositions in zip(results, table, strict=True))
    units = _units(layout, table, tensors, settings)
    every = [disposition for dispositions in table for disposition in dispositions]
    used = sorted({d.method for d in every if d.method} | {d.calibration["method"] for d in every if d.calibration})
    versions = {name: (METHODS[name] if name in METHODS else CALIBRATIONS[name]).version for name in used}
    planned = tuple(model_of(model, prefixes) for model, prefixes in zip(models, renames, strict=True))
    canonical = recipe.canonical()
    return Plan(
        fingerprint=_fingerprint(canonical, settings, planned, versions),
        recipe=canonical,
        settings=settings,
        models=planned,
        dispositions=table[0],
        shards=tuple(
            ShardFile(f"{path}/{shard.file}" if path else shard.file, shard.size)
            for path, _ in results
            for shard in layout
        ),
        tensors=tensors,
        not_written=tuple(
            (d.name, d.disposition.reason) for d in decisions if d.disposition.kind in ("tied", "left_out")
        ),
        units=units,
        warnings=tuple(_warnings(recipe, decisions)),
        methods=versions,
        companions=companions(recipe, chosen, [model.location for model in planned], decisions, access),
        outputs=outputs if recipe.outputs else (),
    )


def differences(old: Plan, new: Plan) -> list[str]:
    """What differs between two plans' inputs, for a person who resumes with something changed."""
    found = _differences("recipe", old.recipe, new.recipe)
    found += _differences("settings", dataclasses.asdict(old.settings), dataclasses.asdict(new.settings))
    found += _differences("method version", old.methods, new.methods)
    before = {model.location: {file.name: file for file in model.files} for model in old.inputs}
    for model in new.inputs:
        known = before.get(model.location)
        if known is None:
            continue  # the recipe's difference says so already
        for file in model.files:
            if file.name not in known:
                found.append(f"{model.location}/{file.name} is new")
            elif known[file.name] != file:
                was = known[file.name]
                found.append(
                    f"{model.location}/{file.name}: was {was.size:,} bytes, {was.version}; "
                    f"is {file.size:,} bytes, {file.version}"
                )
        found += [f"{model.location}/{name} is gone" for name in known if name not in {f.name for f in model.files}]
    return found or ["the version of the plan format (another release of svc_dist made it)"]


def _differences(where: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [line for key in keys for line in _differences(f"{where}: {key}", old.get(key), new.get(key))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in _differences(f"{where}[{i}]", *pair)
        ]
    return [] if old == new else [f"{where}: was {old}, is {new}"]


def _written_dtype(dtype: str, recipe: Recipe) -> str:
    wanted = recipe.written_dtype
    return RECIPE_DTYPES[wanted] if wanted is not None and dtype in FLOAT_DTYPES else dtype


def _place(
    layout: Sequence[Shard], by_name: Mapping[str, Sequence[Decision]], base: Checkpoint, experts: Sequence[Expert]
) -> tuple[tuple[tuple[Disposition, ...], ...], tuple[PlannedTensor, ...]]:
    """The dispositions of each result, and the tensors. ``by_name``: the decisions of all results about a name."""
    table: dict[tuple[Any, ...], int] = {}
    dispositions: list[tuple[Disposition, ...]] = []
    tensors: list[PlannedTensor] = []
    for number, shard in enumerate(layout):
        for spec in shard.tensors:
            decision = by_name[spec.name][0]
            alike = tuple(one.disposition for one in by_name[spec.name])
            own = alike[0]
            # Parameters and calibrations are the recipe's: identity says enough.
            values = (id(part) for one in alike for part in (one.parameters, one.calibration))
            key = (own.source, own.reason, own.method, *values)
            if key not in table:
                table[key] = len(dispositions)
                dispositions.append(alike)
            inputs = held(spec, base, experts, None if own.kind == "merged" else own.source)
            place = (number, spec.start, spec.end)
            tensors.append(
                PlannedTensor(spec.name, spec.dtype, spec.shape, *place, table[key], decision.batch, *inputs)
            )
    return tuple(zip(*dispositions, strict=True)), tuple(tensors)


def _units(
    layout: Sequence[Shard],
    table: Sequence[Sequence[Disposition]],
    tensors: Sequence[PlannedTensor],
    settings: Settings,
) -> tuple[Unit, ...]:
    number_of = {tensor.name: number for number, tensor in enumerate(tensors)}

    def grain(spec: TensorSpec) -> int:
        tensor = tensors[number_of[spec.name]]
        disposition = table[0][tensor.disposition]
        if disposition.method is not None and METHODS[disposition.method].statistics is not None:
            return 0
        if any(takes_matrices(tensor, dispositions[tensor.disposition]) for dispositions in table):
            assert tensor.batch is not None
            return tensor.batch[1] * tensor.batch[2] if tensor.batch[0] > 1 else 0
        if disposition.method is not None and METHODS[disposition.method].access != "one pass":
            return 0
        return tensor.row

    units: list[Unit] = []
    for shard_number, shard in enumerate(layout):
        for cut in ranges(shard, grain):
            pieces = tuple((number_of[piece.tensor], piece.start, piece.end) for piece in cut.pieces)
            bytes_in, flops, memory = 0, 0.0, 0
            for number, first, last in pieces:
                tensor = tensors[number]
                alike = [dispositions[tensor.disposition] for dispositions in table]
                bytes_in += sum(part.end - part.start for _, part in tensor.reads(first, last))
                flops += work_of_results(tensor, alike, last - first, settings.precision).flops
                memory = max(memory, memory_of_results(tensor, alike, settings.precision))
            units.append(
                Unit(
                    f"{len(units):06d}",
                    shard_number,
                    cut.start,
                    cut.end,
                    pieces,
                    bytes_in,
                    (cut.end - cut.start) * len(table),
                    flops,
                    memory,
                )
            )
    return tuple(units)


def _fingerprint(
    recipe: Mapping[str, Any], settings: Settings, models: Sequence[Model], versions: Mapping[str, int]
) -> str:
    identity = {
        "version": PLAN_VERSION,
        "recipe": recipe,
        "settings": dataclasses.asdict(settings),
        "models": [dataclasses.asdict(model) for model in models],
        "methods": versions,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


_HARMLESS = 0.25  # alpha: 1/K of four experts was seen to do no harm


def _calibration_advice(recipe: Recipe, decisions: Sequence[Decision]) -> Iterator[str]:
    """What is known against a calibration on a method, where a recipe leaves alpha and ``lambda`` to the defaults."""
    calibrated = {
        decision.disposition.method
        for decision in decisions
        if (decision.disposition.calibration or {}).get("alpha", 1.0) < _HARMLESS
        and (decision.disposition.parameters or {}).get("lambda", 1.0) == 1.0
    }
    asked: dict[str, str] = {}
    if recipe.calibrate is not None and "alpha" not in recipe.calibrate:
        asked[recipe.merge_method] = recipe.where("calibrate")
    for index, rule in enumerate(recipe.rules):
        given = rule.calibrate if rule.calibrate is not None else recipe.calibrate
        if rule.keep is None and given is not None and "alpha" not in given:
            asked.setdefault(rule.merge_method or recipe.merge_method, recipe.where("rules", index))
    for method, where in asked.items():
        if method in calibrated and (advice := METHODS[method].calibration_advice) is not None:
            yield f"{where}: svc without alpha on {method}: {advice}"


def _warnings(recipe: Recipe, decisions: Sequence[Decision]) -> list[str]:
    found = []
    for index, rule in enumerate(recipe.rules):
        if rule.optional:
            continue
        for pattern in rule.match:
            if len(rule.match) > 1 and not any(matches(decision.name, [pattern]) for decision in decisions):
                found.append(f"{recipe.where('rules', index, 'match')}: the pattern {pattern!r} matches no tensor")
    calibrated = any(decision.disposition.calibration for decision in decisions)
    if recipe.calibrate is not None and recipe.calibrate.get("method") != "none" and not calibrated:
        found.append(f"{recipe.where('calibrate')}: no tensor is calibrated: none is a matrix that a rule leaves to it")
    found.extend(_calibration_advice(recipe, decisions))
    if "fallback" in recipe.model_fields_set and METHODS[recipe.merge_method].family == "elementwise":
        found.append(f"{recipe.where('fallback')}: has no effect: {recipe.merge_method} takes every tensor")
    return [*found, *dialect.warnings(recipe, [decision.name for decision in decisions])]
