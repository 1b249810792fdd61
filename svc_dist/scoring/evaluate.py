"""``evaluate:`` of a recipe: commands that score a published model, and what becomes of their scores."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from svc_dist.checks.verify import verify
from svc_dist.errors import EvaluationError, RecipeError, VerificationError, printable
from svc_dist.recipe.documents import ResolvedDocument
from svc_dist.recipe.evaluation.entry import EvaluateEntry
from svc_dist.recipe.load import RecipeSource, load_documents
from svc_dist.run.series.nightly import Checks
from svc_dist.run_folder.documents.places import placed
from svc_dist.run_folder.documents.records import document_output
from svc_dist.run_folder.output import Output
from svc_dist.run_folder.published import CARD_FILE
from svc_dist.run_folder.report import LARGEST, REPORT_FILE, Evaluation, MergeReport, utc
from svc_dist.scoring.card import with_scores
from svc_dist.scoring.command import score
from svc_dist.storage.access import Access
from svc_dist.storage.secrets import redact

_log = logging.getLogger("svc_dist")


def require_runnable(documents: Sequence[ResolvedDocument], recipe: RecipeSource, allowed: bool) -> None:
    """Raise RecipeError, before anything is merged, where the commands of a recipe may not or cannot be run.

    ``allowed``: also those of a recipe that is no local file.
    """
    for document in documents:
        if not document.recipe.evaluate:
            continue
        where = document.recipe.origin.at("evaluate")
        if not document.result:
            raise RecipeError(
                f"{where}: the model of {document.title} does not stay, so nothing can evaluate it",
                "move the key to the document whose model stays",
                code="evaluate-refused",
            )
        if is_foreign(recipe) and not allowed:
            commands = "\n".join(f"  {one.command}" for one in document.recipe.evaluate)
            raise RecipeError(
                f"{where}: the recipe is no local file, and it runs commands on this machine:\n{commands}",
                "read them; then add --run-commands to run them, or --no-evaluate to merge without them",
                code="commands-refused",
            )


def checks_of(recipe: RecipeSource, evaluated: bool, allowed: bool) -> Checks:
    """What a merge of this recipe is checked by, before and after it. ``evaluated``: also by the recipe's commands."""

    def problems(location: str, access: Access) -> list[str]:
        return verify(location, access=access).problems

    if not evaluated:
        return Checks(problems)
    return Checks(problems, lambda documents: require_runnable(documents, recipe, allowed), evaluate)


def is_foreign(recipe: RecipeSource) -> bool:
    """Whether a recipe comes from elsewhere than a local file or the caller's own data."""
    return isinstance(recipe, str | Path) and (str(recipe) == "-" or "://" in str(recipe))


def evaluation_lines(
    recipe: RecipeSource, output: str | None, changes: Mapping[str, Any], access: Access
) -> Iterator[str]:
    """What a merge would run after it is published, for a plan."""
    load = partial(load_documents, recipe, access=access, changes=changes)
    for document in load() if output is None else placed(load, output)[0]:
        for entry in document.recipe.evaluate:
            yield f"then runs, as '{printable(entry.name)}': {printable(entry.command)}"


def evaluate(documents: Sequence[ResolvedDocument], location: str) -> None:
    """Score each published model of a recipe whose scores its report does not have yet.

    Raises VerificationError for a model that is not whole, EvaluationError for a command that fails.
    """
    for document in documents:
        if not document.recipe.evaluate or not document.result:
            continue
        output = document_output(
            Output(location, document.recipe.access), document.name if len(documents) > 1 else None, True
        )
        for result in document.recipe.results:
            folder = f"{output.location}/{result.path}" if result.path else output.location
            _evaluate(Output(folder, output.access), document.recipe.evaluate)


def _evaluate(model: Output, entries: Sequence[EvaluateEntry]) -> None:
    """Score one model by the commands that its report does not have yet."""
    data, report = _report(model)
    done = {(one.name, one.command): one for one in report.evaluations}
    left = [entry for entry in entries if (entry.name, entry.command) not in done]
    if not left:
        return
    checked = verify(model.location, access=model.access)
    if not checked.ok:
        raise VerificationError(
            f"{model.location} is not evaluated: {checked.problems[0]}", f"svc-dist verify {model.location} lists all"
        )
    for entry in left:
        done[entry.name, entry.command] = _score(model, entry)
        kept = {(one.name, one.command) for one in entries}
        _record(model, data, [one for key, one in done.items() if key in kept])


def _score(model: Output, entry: EvaluateEntry) -> Evaluation:
    _log.info(f"evaluating {model.location}: {entry.name}")
    try:
        scores = score(entry.command, model.location, entry.timeout)
        metrics = {name: value for name, value in scores.metrics.items() if math.isfinite(value)}
        if not metrics:
            raise EvaluationError(f"no score is finite: {', '.join(scores.metrics)}")
    except EvaluationError as error:
        raise EvaluationError(
            f"evaluate '{entry.name}': {error.message}\n{model.location} is complete and verified; only its scores are "
            "missing",
            "run the same command again to repeat the evaluation, or add --no-evaluate",
        ) from None
    _log.info(f"{entry.name}: {', '.join(_shown(metrics))} ({scores.seconds:.1f} s)")
    return Evaluation(entry.name, entry.task, redact(entry.command), metrics, scores.seconds, utc(time.time()))


def _report(model: Output) -> tuple[dict[str, Any], MergeReport]:
    """The report of a model as it stands in its file, and checked."""
    content = model.storage.get_within(REPORT_FILE, LARGEST) or b""
    report = MergeReport.parse(content, f"{model.location}/{REPORT_FILE}")
    return json.loads(content), report


def _record(model: Output, report: dict[str, Any], evaluations: Sequence[Evaluation]) -> None:
    """Put scores into the card and the report of a model; the report last, since it decides what is left to do."""
    card = model.storage.get(CARD_FILE)
    if card is not None:
        name = model.location.rstrip("/").rpartition("/")[2]
        model.storage.put(CARD_FILE, with_scores(card.decode("utf-8", "replace"), name, evaluations).encode())
    report["evaluations"] = [vars(one) for one in evaluations]
    model.storage.put(REPORT_FILE, json.dumps(report, indent=1).encode())


def _shown(metrics: Mapping[str, float]) -> Iterator[str]:
    for name, value in list(metrics.items())[:8]:
        yield f"{name} {value:.6g}"
    if len(metrics) > 8:
        yield f"and {len(metrics) - 8} more"
