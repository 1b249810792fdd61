"""A command of the user's that scores a model: run in a shell, ended in time, its scores read."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from svc_dist.errors import EvaluationError, printable_lines
from svc_dist.recipe.evaluation.entry import OUTPUT, SCORES
from svc_dist.run.signals.shell import run_line
from svc_dist.scoring import metrics
from svc_dist.storage.secrets import redact, redact_command

_TAIL = 1 << 20  # bytes of the end of a command's output that are read
_SHOWN = 20  # lines of it in a message


@dataclass(frozen=True)
class Scores:
    """What a command said of a model: named numbers, and the seconds that it took."""

    metrics: dict[str, float]
    seconds: float


def score(command: str, output: str, timeout: float | None = None) -> Scores:
    """Run a score command on a model, a folder or URL, and read its scores.

    The command is a line of the shell. ``{output}`` and ``{scores}`` in it become the quoted location of the model and
    of an empty folder; ``SVC_DIST_OUTPUT`` in its environment is the first too. Where it names ``{scores}``, scores are
    read from there, else from its last line of output. Whatever it starts ends with it. Raises EvaluationError.
    """
    with tempfile.TemporaryDirectory(prefix="svc-dist-scores-") as folder:
        line = command.replace(OUTPUT, shlex.quote(output)).replace(SCORES, shlex.quote(folder))
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            began = time.monotonic()
            code = run_line(line, {"SVC_DIST_OUTPUT": output}, out, err, timeout)
            seconds = time.monotonic() - began
            if code != 0:
                raise EvaluationError(f"{_how(code, timeout)}: {redact_command(command)}{_said(err, out)}")
            try:
                found = metrics.written(Path(folder)) if SCORES in command else metrics.printed(_tail(out))
            except EvaluationError as error:
                raise EvaluationError(f"{error.message}{_said(err, out)}", error.hint) from None
    return Scores(found, seconds)


def _how(code: int | None, timeout: float | None) -> str:
    if code is None:
        return f"the command took longer than {timeout:g} s and was stopped"
    if code < 0:
        return f"the command was ended by {signal.Signals(-code).name}"
    return f"the command exited with {code}"


def _said(*streams: IO[bytes]) -> str:
    """The last lines of the first stream that has any, without credentials, for a message."""
    for stream in streams:
        lines = [line for line in redact(_tail(stream)).splitlines() if line.strip()][-_SHOWN:]
        if lines:
            return "\n" + printable_lines("\n".join(f"  | {line[:400]}" for line in lines))
    return ""


def _tail(stream: IO[bytes]) -> str:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _TAIL))
    return stream.read().decode("utf-8", "replace")
