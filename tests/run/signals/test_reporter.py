"""What a merge tells of its result: commands (svc_dist.run.signals.hooks, run by svc_dist.run.signals.shell), a request
(svc_dist.run.signals.posting), metrics (svc_dist.run.signals.metrics); svc_dist.run.signals.outcome says how it
ended."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.errors import DrainedError, LockedError, OutputError, RecipeError, StorageError
from svc_dist.run.session import MergeSummary
from svc_dist.run.signals import posting, reporter
from svc_dist.run.signals.metrics import METRICS, push_path
from svc_dist.run.signals.reporter import Signals, reporting
from tests.support.checkpoints import recipe_data, write_llamas
from tests.support.ended import wait_until_ended

SUMMARY = MergeSummary("out", "f" * 64, 3, 1, 4, 1, 0, 100, 50, 1.5, "inline", "mixed", ())


class Server:
    """Answers requests with the codes of ``answers``, then with 200, and keeps them."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        its = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                its.requests.append((self.path, dict(self.headers), data))
                code = its.answers.pop(0) if its.answers else 200
                self.send_response(code)
                if code == 307:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "_PAUSE", 0.01)
    monkeypatch.setattr(logging.getLogger("svc_dist"), "propagate", True)  # a command may have cleared it


def end(signals: Signals, error: BaseException | None = None, summary: MergeSummary | None = SUMMARY) -> None:
    """A start that ends so."""
    with (
        nullcontext() if error is None else pytest.raises(type(error)),
        reporting(signals, "s3://bucket/{date}") as told,
    ):
        if error is not None:
            raise error
        told.summary = summary


def values(text: str) -> dict[str, float]:
    """The metrics of a text, without their output."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {re.sub(r'output="[^"]*",?', "", line.rpartition(" ")[0]): float(line.rpartition(" ")[2]) for line in lines}


# --- commands


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, "good complete 0 out"),
        (RecipeError("wrong"), "bad failed 2 s3://bucket/{date}"),
        (ValueError("a bug"), "bad failed 70 s3://bucket/{date}"),
        (DrainedError("stopped"), None),
        (KeyboardInterrupt(), None),
        (LockedError("another"), None),
    ],
)
def test_commands_learn_the_result(tmp_path: Path, error: BaseException | None, told: str | None) -> None:
    line = f"$SVC_DIST_STATE $SVC_DIST_EXIT_CODE $SVC_DIST_OUTPUT >> {tmp_path}/told"
    end(Signals(on_success=f"echo good {line}", on_failure=f"echo bad {line}"), error)
    assert (f"{told}\n" if told else None) == (
        (tmp_path / "told").read_text() if (tmp_path / "told").exists() else None
    )


def test_a_command_that_fails_or_hangs_is_a_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO, "svc_dist")
    end(Signals(on_success="echo to the log; exit 3"))
    assert "--on-success: to the log" in caplog.text
    assert "ended with exit code 3; the merge's exit code stays 0" in caplog.text
    began = time.monotonic()
    end(Signals(on_success=f"(sleep 60; touch {tmp_path}/late) & sleep 60", hook_timeout=0.2))
    assert time.monotonic() - began < 30
    assert "was killed after 0.2 s (--hook-timeout)" in caplog.text
    began = time.monotonic()
    end(Signals(on_success=f"(sleep 60; touch {tmp_path}/late) & echo $! > {tmp_path}/left"))
    assert time.monotonic() - began < 30
    wait_until_ended(int((tmp_path / "left").read_text()))


# --- a request


def test_the_result_is_sent_and_retried(server: Server) -> None:
    server.answers = [503, 429]
    end(Signals(notify=f"http://me:pass%20word@{server.address}/hook/secret?key=1"))
    assert [path for path, *_ in server.requests] == ["/hook/secret?key=1"] * 3
    _, headers, data = server.requests[-1]
    assert headers["Authorization"] == "Basic bWU6cGFzcyB3b3Jk"
    sent = json.loads(data)
    assert {key: sent[key] for key in ("state", "exit_code", "output", "units", "bytes_out", "error")} == {
        "state": "complete", "exit_code": 0, "output": "out", "units": 4, "bytes_out": 50, "error": None
    }  # fmt: skip


@pytest.mark.parametrize("answers", [[404], [307], [500] * 99])
def test_a_request_that_fails_is_a_warning_without_the_url(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, answers: list[int]
) -> None:
    monkeypatch.setattr(reporter, "_DEADLINE", 2.0)
    server.answers = list(answers)
    end(Signals(notify=f"http://me:sesame99@{server.address}/services/T0/xoxb-hidden?token=hidden2"))
    assert f"--notify was not told: http://{server.address} answers {answers[0]}" in caplog.text
    assert "hidden" not in caplog.text
    assert "sesame" not in caplog.text


def test_nobody_listens(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "_DEADLINE", 0.5)
    end(Signals(notify="http://127.0.0.1:9/hidden-path"))
    assert "http://127.0.0.1:9 cannot be reached" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("url", ["ftp://host/hidden", "hidden", "https://", "http://[hidden", "http://host:hidden/"])
def test_other_urls_are_refused_and_not_repeated(url: str) -> None:
    for options in ({"notify": url}, {"metrics_push": url}):
        with pytest.raises(RecipeError, match="takes a URL") as refused:
            Signals(**options)  # type: ignore[arg-type]
        assert "hidden" not in str(refused.value)


def test_an_error_with_a_credential_is_sent_without_it(server: Server) -> None:
    end(Signals(notify=f"http://{server.address}/"), StorageError("cannot read https://user:hidden@host/x?sig=hidden"))
    assert b"hidden" not in server.requests[0][2]


# --- metrics


def test_a_file_with_metrics_keeps_the_last_success(tmp_path: Path) -> None:
    file = tmp_path / "merge.prom"
    end(Signals(metrics_file=file))
    first = values(file.read_text())
    assert first["svc_dist_merge_exit_code{}"] == 0
    assert first['svc_dist_merge_result{result="complete"}'] == 1
    assert first["svc_dist_merge_units_done{}"] == 4
    end(Signals(metrics_file=file), RecipeError("wrong"))
    second = values(file.read_text())
    assert second["svc_dist_merge_exit_code{}"] == 2
    assert second['svc_dist_merge_result{result="failed"}'] == 1
    assert second['svc_dist_merge_result{result="complete"}'] == 0
    name = "svc_dist_merge_success_timestamp_seconds{}"
    assert second[name] == pytest.approx(first[name])
    before = file.read_text()
    end(Signals(metrics_file=file), LockedError("another run"))
    assert file.read_text() == before, "the run that is at work writes it"
    assert [path.name for path in tmp_path.iterdir()] == ["merge.prom"]


def test_the_text_is_in_prometheus_format(tmp_path: Path) -> None:
    file = tmp_path / "merge.prom"
    with reporting(Signals(metrics_file=file), 'a "b" \\ c') as told:
        told.summary = SUMMARY
    lines = file.read_text().splitlines()
    heads = [line for line in lines if line.startswith("#")]
    assert heads == [line for name in METRICS for line in (f"# HELP {name} {METRICS[name]}", f"# TYPE {name} gauge")]
    value = r'svc_dist_merge_[a-z_]+\{output="a \\"b\\" \\\\ c"(,result="[a-z]+")?\} [0-9.e+-]+'
    assert all(re.fullmatch(value, line) for line in lines if line not in heads)
    for name in METRICS:
        first = next(number for number, line in enumerate(lines) if line.startswith(f"{name}{{"))
        assert lines[first - 1] == f"# TYPE {name} gauge", "a metric's lines stand together"


def test_a_pushgateway_gets_the_same(server: Server) -> None:
    end(Signals(metrics_push=f"http://{server.address}/gateway"))
    path, headers, data = server.requests[0]
    assert path == "/gateway/metrics/job/svc_dist/merge@base64/czM6Ly9idWNrZXQve2RhdGV9"
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert values(data.decode())["svc_dist_merge_exit_code{}"] == 0
    assert push_path("s3://bucket/{date}") in path


def test_a_file_that_cannot_be_written_is_refused_before_and_a_warning_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StorageError, match="--metrics-file"):
        Signals(metrics_file=tmp_path / "missing" / "x.prom")
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(OutputError, match="device"):
        Signals(metrics_file=tmp_path / "null")
    with pytest.raises(OutputError, match="names no file"):
        Signals(metrics_file=Path(""))  # noqa: PTH201  (what a variable that is not set makes of the option)
    (tmp_path / "folder.prom").mkdir()
    end(Signals(metrics_file=tmp_path / "folder.prom"))
    assert "metrics were not written" in caplog.text


# --- a whole merge


def test_a_merge_that_runs_and_ends(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "EVERY", 0.01)
    written: list[dict[str, float]] = []
    write = reporter.metrics.write_file

    def keep(file: Path, values: Any, output: str) -> None:
        written.append(dict(values))
        write(file, values, output)

    monkeypatch.setattr(reporter.metrics, "write_file", keep)
    recipe = recipe_data(write_llamas(tmp_path), parameters={"weight": 0.4})
    signals = Signals(notify=f"http://{server.address}/", metrics_file=tmp_path / "merge.prom")
    for _ in range(2):
        svc_dist.merge(recipe, tmp_path / "out", executor="inline", signals=signals)
    assert written[0]["svc_dist_merge_running"] == 1
    assert written[0]["svc_dist_merge_units"] > 0
    assert written[-1]["svc_dist_merge_running"] == 0
    assert [json.loads(data)["state"] for _, _, data in server.requests] == ["complete", "unchanged"]
    with pytest.raises(RecipeError):
        svc_dist.merge({"merge_method": "none"}, tmp_path / "out", signals=signals)
    assert json.loads(server.requests[-1][2])["exit_code"] == 2
