"""What ``svc-dist merge`` and ``plan`` print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from svc_dist.checkpoint.formats.codecs.texts import codec_of
from svc_dist.cli.overview.models import model_lines
from svc_dist.cli.overview.values import shown
from svc_dist.errors import printable
from svc_dist.methods.calibration.chain import steps
from svc_dist.plan.auto.chosen import choice_lines
from svc_dist.plan.inputs import every_location
from svc_dist.recipe.training.checkpoints import step_of
from svc_dist.run.pipeline.needs import Needs
from svc_dist.sizes import counted, format_size

if TYPE_CHECKING:
    from svc_dist.plan.model import Plan
    from svc_dist.run.session import MergeSummary

_NAMED = 3  # names of one kind that are listed one by one


def merge_line(summary: MergeSummary) -> str:
    """What a merge did, in one line."""
    resumed = summary.units_resumed
    earlier = f"; {resumed:,} of {counted(summary.units, 'unit')} came from earlier runs" if resumed else ""
    return (
        f"{summary.output}: {counted(summary.tensors, 'tensor')} in {counted(summary.shards, 'shard')}, "
        f"{format_size(summary.bytes_out)}, verified, {summary.seconds:.1f} s{earlier}"
    )


def plans_lines(plans: Sequence[Plan], every_name: bool = False) -> Iterator[str]:
    """The plan of a recipe, or of each of its documents, and what all of them take."""
    for plan in plans:
        if len(plans) > 1:
            name = plan.recipe.get("name")
            yield "document without a name:" if name is None else f"document {printable(str(name))}:"
        yield from plan_lines(plan, every_name)
    if len(plans) > 1:
        read, written = (sum(getattr(plan, key) for plan in plans) for key in ("bytes_in", "bytes_out"))
        units = counted(sum(len(plan.units) for plan in plans), "unit")
        yield f"all {len(plans)} documents: {units}, reads {format_size(read)}, writes {format_size(written)}"


def plan_lines(plan: Plan, every_name: bool = False) -> Iterator[str]:
    """The models, what becomes of which tensors, and what that takes. ``every_name``: list all tensors."""
    yield f"merges {counted(len(plan.models) - 1, 'expert')} into the base {plan.models[0].name}"
    yield from model_lines(plan)
    yield ""
    named: list[list[str]] = [[] for _ in plan.results[0].dispositions]
    for tensor in plan.tensors:
        named[tensor.disposition].append(printable(tensor.name))
    for result in plan.results:
        if result.path:
            yield f"output {result.path}:"
        for entry, names in zip(result.dispositions, named, strict=True):
            what = f"merged by {entry.method}{_listed(entry.parameters)}" if entry.method else entry.kind
            for number, one in enumerate(steps(entry.calibration)):
                rest = {key: value for key, value in one.items() if key != "method"}
                what += f", {'then' if number else 'calibrated'} by {one['method']}{_listed(rest)}"
            if entry.least_difference is not None:
                what += f", only where the relative difference from the base exceeds {shown(entry.least_difference)}"
            yield f"{counted(len(names), 'tensor')} {what}; {entry.reason}"
            if every_name:
                yield from (f"    {name}" for name in names)
            else:
                yield f"    {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
    yield from _not_written(plan)
    yield from _sidecar_lines(plan)
    largest = max(plan.units, key=lambda unit: unit.memory)
    holder = printable(plan.tensors[max(largest.pieces, key=lambda piece: piece[2] - piece[1])[0]].name)
    settings = plan.settings
    yield from choice_lines(plan.auto)
    yield from _adapter_lines(plan)
    yield from _checkpoint_lines(plan)
    for model in every_location(plan.models):
        if model.hub is not None:
            yield f"reads {model.hub} from {_place(model.location)}"
    yield (
        f"writes {counted(len(plan.tensors), 'tensor')} to {counted(len(plan.shards), 'shard')} "
        f"in {counted(len(plan.units), 'unit')}"
    )
    yield from _code_lines(plan)
    yield f"reads {format_size(plan.bytes_in)}, writes {format_size(plan.bytes_out)}"
    yield f"needs at most {format_size(largest.memory)} of memory for a unit ({holder})"
    yield f"computes about {sum(unit.flops for unit in plan.units) / 1e12:.3g} Tflop"
    yield (
        f"planned for {settings.device}, precision {settings.precision}, "
        f"{counted(settings.threads_per_unit, 'thread')} per unit"
    )
    yield from _core_lines(plan)
    yield f"fingerprint {plan.fingerprint[:16]}"


def _core_lines(plan: Plan) -> Iterator[str]:
    """How many units of a merge on GPUs compute on cores."""
    if plan.settings.device == "cpu":
        return
    needs = Needs(plan)
    on_cores = sum(needs.on_host(unit) for unit in plan.units)
    if on_cores:
        yield (
            f"computes {on_cores:,} of {counted(len(plan.units), 'unit')} on cores, not on a GPU: they are copied or "
            "merged entry by entry"
        )


def _code_lines(plan: Plan) -> Iterator[str]:
    """How many weights are read from codes of which format, and how many are written in them."""
    read, written = Counter[str](), Counter[str]()
    for tensor in plan.tensors:
        if tensor.codec is not None:
            written[codec_of(tensor.codec).label] += 1
        names = {codec_of(one.codec).label for one in tensor.sources if one is not None and one.codec}
        read.update(dict.fromkeys(sorted(names), 1))
    if read:
        what = "in the base's own format" if written else "as bfloat16 weights"
        yield f"reads {_formats(read)} from codes, writes {_formats(written) if written else 'all'} {what}"


def _formats(formats: Counter[str]) -> str:
    return " and ".join(f"{counted(number, 'weight')} ({name})" for name, number in sorted(formats.items()))


def _place(location: str) -> str:
    """Where a model of a hub is read, and at which commit."""
    if location.startswith("hf://"):
        return f"the hub, at commit {location.partition('@')[2]}"
    return f"the local hub cache: {location}"


def _not_written(plan: Plan) -> Iterator[str]:
    """The names that are not in the result, by reason where many have the same; those of an adapter always."""
    groups: dict[tuple[str, str], list[str]] = {}
    alike = Counter(reason for _, reason in plan.not_written)
    for name, reason in plan.not_written:
        together = plan.adapter is not None or alike[reason] > _NAMED
        groups.setdefault((reason, "" if together else name), []).append(name)
    for (reason, _), names in groups.items():
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        yield f"not written: {printable(names[0])}{more}; {reason}"


def _adapter_lines(plan: Plan) -> Iterator[str]:
    """The pairs of an adapter and the modules that it saves whole."""
    if plan.adapter is None:
        return
    pairs = [tensor.factor for tensor in plan.tensors if tensor.factor is not None and tensor.factor.side == "a"]
    cut = sum(not factor.exact for factor in pairs)
    kind = f"{cut:,} of them cut to their rank: the report states each error" if cut else "all exact"
    ranks = sorted({factor.rank for factor in pairs}) or [0]
    several = f"ranks {ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else f"rank {ranks[0]}"
    yield f"writes a LoRA adapter of {counted(len(pairs), 'pair')} of factors, {several}; {kind}"
    if saved := plan.adapter["modules_to_save"]:
        listed = ", ".join(map(printable, saved[:3])) + (", ..." if len(saved) > 3 else "")
        yield f"saves {counted(len(saved), 'module')} whole (modules_to_save): {listed}"


def _checkpoint_lines(plan: Plan) -> Iterator[str]:
    """The weight of each checkpoint of a training run, in each result."""
    models = plan.recipe.get("models") or []
    if plan.recipe["merge_method"] != "linear" or not all(step_of(one["model"]) is not None for one in models):
        return
    own = [[(one.get("parameters") or {}).get("weight") for one in models]]
    outputs = plan.recipe.get("outputs") or []
    for number, weights in enumerate([one["weights"] for one in outputs if one.get("weights")] or own):
        title = f"output {plan.results[number].path}: " if plan.results[number].path else ""
        for model, weight in zip(models, weights, strict=True):
            if weight:
                yield f"{title}{printable(model['model'])} with weight {shown(weight)}"


def _sidecar_lines(plan: Plan) -> Iterator[str]:
    """The sidecars by the model that they come from, and the files that are not copied by reason."""
    changes = {"dtype": " (with the recipe's dtype)", "template": " (with the chat template)", "text": " (written)"}
    changes |= {"adapter": " (written)"}
    groups: dict[str, list[str]] = {}
    for sidecar in plan.sidecars:
        title = f"sidecars from {sidecar.elsewhere or plan.models[sidecar.source].location}"
        change = changes.get(sidecar.rewrite, "") + (" (without quantization_config)" if sidecar.dequantised else "")
        if sidecar.tied is not None:
            change += f" (with tie_word_embeddings: {str(sidecar.tied).lower()})"
        if sidecar.vocab_size is not None:
            change += f" (with vocab_size: {sidecar.vocab_size:,})"
        if sidecar.more_tokens:
            change += f" (with {counted(len(plan.added_tokens), 'more token')})"
        if sidecar.values:
            change += f" (with {', '.join(f'{key}: {_brief(value)}' for key, value in sidecar.values.items())})"
        groups.setdefault(title, []).append(printable(sidecar.name) + change)
    for file in plan.left_out:
        groups.setdefault(f"not copied from {file.location} ({file.reason})", []).append(printable(file.name))
    yield from (f"{title}: {', '.join(names)}" for title, names in groups.items())


def _brief(value: Any) -> str:
    """A value of a config; of a list its length."""
    return counted(len(value), "value") if isinstance(value, list) else str(value).lower()


def _listed(parameters: dict[str, Any] | None) -> str:
    return " (" + ", ".join(f"{key} {shown(value)}" for key, value in parameters.items()) + ")" if parameters else ""
