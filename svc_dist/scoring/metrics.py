"""Scores as named numbers: from what a command printed, or from files that it wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from svc_dist.errors import EvaluationError, RecipeError
from svc_dist.recipe.origin import nearest

#: The name of a score that a command prints as a number alone.
SCORE = "score"
_LARGEST = 64 << 20  # bytes of a file with scores
_COUNT = "sample_len"  # of lm-eval: how many samples a task has
_NO_FILTER = ",none"  # in lm-eval's names of metrics


def printed(text: str) -> dict[str, float]:
    """The scores in the last line of a command's output: a number, or JSON with named numbers.

    Raises EvaluationError.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise EvaluationError(
            "the command printed nothing", 'its last line must be a number, or JSON like {"acc": 0.7}'
        )
    try:
        data = json.loads(lines[-1], parse_int=_whole)
    except (ValueError, RecursionError):
        data = _number(lines[-1])
    if isinstance(data, int | float) and not isinstance(data, bool):
        return {SCORE: float(data)}
    return _named(data, f"the last line of the command's output, {lines[-1][:80]!r},")


def written(folder: Path) -> dict[str, float]:
    """The scores in the newest JSON file under a folder; of lm-eval's files those under ``results``.

    Raises EvaluationError.
    """
    files = sorted(folder.rglob("*.json"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    if not files:
        raise EvaluationError("the command wrote no JSON file into {scores}")
    if files[-1].stat().st_size > _LARGEST:
        raise EvaluationError(f"{files[-1].name} has more than {_LARGEST:,} bytes: it is no file of scores")
    try:
        data = json.loads(files[-1].read_bytes(), parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"the file {files[-1].name}, which the command wrote, is not JSON: {error}") from None
    what = f"the file {files[-1].name}, which the command wrote,"
    if isinstance(data, Mapping) and isinstance(data.get("results"), Mapping):
        found = _named(data["results"], what)
        return {name: value for name, value in found.items() if name.rpartition(".")[2] != _COUNT}
    return _named(data, what)


def chosen(metrics: Mapping[str, float], name: str | None) -> float | None:
    """The number that a search goes by; None where it is not finite.

    ``name``: that of a metric, or the end of one's. Without it the metrics must be one, but for standard errors.
    Raises RecipeError.
    """
    if name is None:
        names = [key for key in metrics if not key.rpartition(".")[2].endswith("_stderr")]
        if len(names) != 1:
            shown = ", ".join(names) or "none"
            raise RecipeError(
                f"the score command gives {len(names)} metrics ({shown})",
                "name the one that counts: --metric NAME",
                code="metric-unclear",
            )
    else:
        names = [key for key in metrics if key == name] or [key for key in metrics if key.endswith(f".{name}")]
        if len(names) != 1:
            why = "is the end of several" if names else "is none"
            raise RecipeError(
                f"--metric {name} {why} of the metrics that the score command gives: {', '.join(names or metrics)}",
                None if names else nearest(name, metrics),
                code="metric-unclear",
            )
    value = metrics[names[0]]
    return value if math.isfinite(value) else None


def _whole(text: str) -> int | float:
    """A whole number; infinity where no float is that large."""
    return int(text) if math.isfinite(float(text)) else float(text)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _named(data: Any, what: str) -> dict[str, float]:
    """The numbers in nested mappings, each by its keys. Raises EvaluationError."""
    found = dict(_numbers(data, "")) if isinstance(data, Mapping) else {}
    if not found:
        raise EvaluationError(f"{what} holds no score", 'print a number, or JSON with named numbers like {"acc": 0.7}')
    return found


def _numbers(data: Mapping[str, Any], owner: str) -> Iterator[tuple[str, float]]:
    for key, value in data.items():
        name = f"{owner}{str(key).removesuffix(_NO_FILTER)}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
