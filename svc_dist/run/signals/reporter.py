"""Tells the result of a merge, and its progress, to whom the user named. What fails here is a warning."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from svc_dist.errors import ExitCode, RecipeError, StorageError
from svc_dist.run.session import MergeSummary
from svc_dist.run.signals import metrics
from svc_dist.run.signals.hooks import run_hook
from svc_dist.run.signals.outcome import Ended, Outcome
from svc_dist.run.signals.posting import Target
from svc_dist.storage.secrets import redact

EVERY = 15.0  # seconds between two writes of a running merge's metrics
_DEADLINE = 30.0  # seconds in which the result is sent
_log = logging.getLogger("svc_dist")


@dataclass(frozen=True)
class Signals:
    """Whom a merge tells its result.

    ``on_success``, ``on_failure``: shell commands; ``notify``: a URL that gets JSON; ``metrics_file``: a text file for
    Prometheus; ``metrics_push``: the URL of a pushgateway; ``hook_timeout``: seconds after which a command is killed.
    Raises RecipeError, StorageError.
    """

    on_success: str | None = None
    on_failure: str | None = None
    notify: str | None = None
    metrics_file: Path | None = None
    metrics_push: str | None = None
    hook_timeout: float = 300.0

    def __post_init__(self) -> None:
        for url, option in ((self.notify, "--notify"), (self.metrics_push, "--metrics-push")):
            if url is not None:
                Target(url, option)
        if not 0 < self.hook_timeout < math.inf:
            raise RecipeError(f"hook_timeout is {self.hook_timeout!r}, but must be a number of seconds above 0")
        if self.metrics_file is not None:
            metrics.require_writable(self.metrics_file)


@contextlib.contextmanager
def reporting(signals: Signals | None, output: str) -> Iterator[Reporter]:
    """Run a merge within it; its result is reported at its end. ``output``: as the user wrote it, with ``{date}``."""
    reporter = Reporter(signals or Signals(), redact(output))
    began, error = time.time(), None
    try:
        yield reporter
    except BaseException as raised:
        error = raised
        raise
    finally:
        reporter.tell(Outcome.of(output, began, reporter.summary, error))


class Reporter:
    """Tells of one start. ``summary``: what the merge returned, once it has."""

    def __init__(self, signals: Signals, output: str) -> None:
        self._signals, self._output, self._began = signals, output, time.time()
        self._push = None if signals.metrics_push is None else Target(signals.metrics_push, "--metrics-push")
        self._last: dict[str, float] = {}
        self._warned = False
        self.summary: MergeSummary | None = None

    @contextlib.contextmanager
    def watch(self, figures: Callable[[], Mapping[str, float | None]]) -> Iterator[None]:
        """Write the metrics of a running merge until it ends. ``figures``: its progress."""
        if self._signals.metrics_file is None and self._push is None:
            yield
            return
        stop = threading.Event()

        def keep_writing() -> None:
            while True:
                self._write(metrics.of_progress(figures(), self._began, time.time()), EVERY)
                if stop.wait(EVERY):
                    return

        thread = threading.Thread(target=keep_writing, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._last = metrics.of_progress(figures(), self._began, time.time())
            stop.set()
            thread.join(EVERY)

    def tell(self, outcome: Outcome) -> None:
        """Tell how the start ended. A start that found another one at work leaves that to the other."""
        if outcome.state is Ended.BUSY:
            return
        self._write(metrics.of_outcome(outcome, self._last), _DEADLINE)
        if self._signals.notify is not None:
            target = Target(self._signals.notify, "--notify")
            try:
                target.post(json.dumps(outcome.data()).encode(), "application/json", _DEADLINE)
            except StorageError as error:
                _log.warning(f"warning: --notify was not told: {error.message}")
        failed = outcome.exit_code not in (ExitCode.DONE, ExitCode.TRY_AGAIN)
        for option, command, applies in (
            ("--on-success", self._signals.on_success, outcome.exit_code == ExitCode.DONE),
            ("--on-failure", self._signals.on_failure, failed),
        ):
            if command is not None and applies:
                run_hook(option, command, outcome, self._signals.hook_timeout)

    def _write(self, values: Mapping[str, float], deadline: float) -> None:
        """Write metrics; of several failures in a row only the first is warned about."""
        try:
            if self._signals.metrics_file is not None:
                metrics.write_file(self._signals.metrics_file, values, self._output)
            if self._push is not None:
                text = metrics.text_of(values, self._output)
                self._push.post(text, metrics.CONTENT_TYPE, deadline, metrics.push_path(self._output))
            self._warned = False
        except StorageError as error:
            if not self._warned:
                _log.warning(f"warning: metrics were not written: {error.message}")
            self._warned = True
