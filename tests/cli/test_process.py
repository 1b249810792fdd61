"""The command as a process: each end has its exit code, and its reason in text or JSON on standard error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from svc_dist.errors import ExitCode
from tests.support.command import Ended
from tests.support.forked import forked

#: Runs ``main`` with a command that ends as the arguments say; no command of the package ends so on demand.
SCRIPT = """
import os, signal, sys
from svc_dist import errors
from svc_dist.cli import process
from svc_dist.cli.streams import logs

def command():
    if sys.argv[2] == "json":
        logs.set_up(logs.Format.JSON)
    if sys.argv[1] == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
    exec(sys.argv[1])

process.app = lambda **_: command()
process.main()
"""


def ended(statement: str, log_format: str = "text") -> Ended:
    with forked(["-c", SCRIPT, statement, log_format], os.environ) as process:
        out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out, err)


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        (
            "raise errors.RecipeError('wrong key', 'did you mean it?')",
            ExitCode.USAGE,
            "error: wrong key\n  did you mean",
        ),
        (
            "raise errors.RecipeError('wrong key', code='unknown-key')",
            ExitCode.USAGE,
            "lists all keys.\n  explain: svc-dist recipe explain unknown-key\n",
        ),
        (
            "raise errors.RecipeError('no such layer')",
            ExitCode.USAGE,
            "error: no such layer\n  explain: svc-dist recipe explain arguments-refused\n",
        ),
        ("raise errors.DamagedInputError('cut short')", ExitCode.INPUT, "error: cut short\n  Download or save"),
        ("raise errors.LockedError('in use')", ExitCode.LOCKED, "error: in use"),
        ("raise errors.DrainedError('not complete')", ExitCode.TRY_AGAIN, "stopped: not complete"),
        ("raise BrokenPipeError", ExitCode.DONE, ""),
        ("signal", ExitCode.TRY_AGAIN, "interrupted; run the same command again to resume"),
    ],
)
def test_each_end_has_its_code_and_says_why(statement: str, code: int, said: str) -> None:
    done = ended(statement)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_bug_is_shown_whole_but_for_secrets() -> None:
    done = ended("os.environ['AWS_SECRET_ACCESS_KEY'] = 'verySecretKeyOfTests'; raise KeyError('verySecretKeyOfTests')")
    assert done.code == ExitCode.INTERNAL
    assert "Traceback" in done.err
    assert "please report it" in done.err


def test_in_json_the_reason_is_one_object_with_code_and_hint() -> None:
    done = ended("raise errors.OutputError('not ours', 'name another')", "json")
    (line,) = done.err.splitlines()
    entry = json.loads(line)
    assert (entry["message"], entry["hint"], entry["exit_code"]) == ("not ours", "name another", ExitCode.USAGE)
    assert entry["level"] == "error"


def test_in_json_a_stop_that_was_asked_for_is_a_warning() -> None:
    (line,) = ended("raise errors.DrainedError('not complete', 'run again')", "json").err.splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["code"], entry["exit_code"]) == ("warning", "stopped", ExitCode.TRY_AGAIN)


def test_threads_that_go_on_do_not_hold_an_interrupted_process() -> None:
    sleep = "import threading, time; threading.Thread(target=time.sleep, args=(50,)).start(); raise errors.Interrupted"
    assert ended(sleep).code == ExitCode.TRY_AGAIN


def test_the_module_runs_as_the_command_and_an_unknown_one_is_a_usage_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "svc_dist", "nosuch"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == ExitCode.USAGE
    assert "nosuch" in done.stderr


#: Ends with an error, and gets a signal while the command says so.
SIGNALLED = """
process.say = lambda *words, say=process.say, **how: (os.kill(os.getpid(), signal.SIGTERM), say(*words, **how))
raise errors.DamagedInputError("cut short")
"""


def test_a_signal_after_the_end_changes_neither_code_nor_message() -> None:
    done = ended(SIGNALLED)
    assert done.code == ExitCode.INPUT
    assert "error: cut short\n" in done.err
    assert "Traceback" not in done.err


#: Stops as asked while a unit still runs.
DRAINED = (
    "import threading, time; from svc_dist import errors; from svc_dist.cli import process; "
    "threading.Thread(target=time.sleep, args=(50,)).start(); "
    "process.app = lambda **_: (_ for _ in ()).throw(errors.DrainedError(str(7))); process.main()"
)


def redirected(arguments: str, redirection: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    what = arguments if arguments.startswith("-c") else f"-m svc_dist {arguments}"
    line = f"{sys.executable} {what} {redirection}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "redirection", "code", "said"),
    [
        ("methods", ">/dev/full", ExitCode.STORAGE, "error: cannot write standard output: No space left on device\n"),
        ("methods", "| head -c 1", ExitCode.DONE, ""),
        ("plan nowhere.yaml", "2>/dev/full", ExitCode.USAGE, ""),
        ("nosuch", "2>/dev/full", ExitCode.USAGE, ""),
        (f"-c '{DRAINED}'", "2>/dev/full", ExitCode.TRY_AGAIN, ""),
        ("merge nowhere.yaml out", "2>&-", ExitCode.USAGE, ""),
        ("methods", "<&- >&- 2>&-", ExitCode.DONE, ""),
    ],
)
def test_words_that_cannot_be_written_leave_the_exit_code(
    arguments: str, redirection: str, code: int, said: str, tmp_path: Path
) -> None:
    done = redirected(arguments, redirection + ("; exit ${PIPESTATUS[0]}" if "|" in redirection else ""), tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr


def test_a_working_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f"cd gone && rmdir ../gone && {sys.executable} -m svc_dist status {tmp_path}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (4, "error: the working folder no longer exists")
