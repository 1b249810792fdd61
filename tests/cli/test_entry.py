"""The command's first and last instants."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from svc_dist.cli.entry import merges_here

#: Runs the entry point with a command that says something and ends as the argument says.
SCRIPT = """
import atexit, os, sys
from svc_dist.cli import entry, process

class Left:
    def __del__(self):
        os.write(1, b"taken apart ")

left = Left()
process.app = lambda **_: (print("said", end=" "), exec(sys.argv[1]))
entry.main()
"""


def ended(statement: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, statement], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "here"),
    [
        (["merge", "recipe.yaml", "out"], True),
        (["merge", "recipe.yaml", "out", "--executor", "inline"], True),
        (["merge", "recipe.yaml", "out", "--executor", "ray"], False),
        (["merge", "recipe.yaml", "out", "--executor=ray"], False),
        (["merge", "recipe.yaml", "out", "--address", "auto"], False),
        (["merge", "--help"], False),
        (["plan", "recipe.yaml"], False),
        ([], False),
    ],
)
def test_only_a_merge_in_this_process_loads_torch_early(arguments: list[str], here: bool) -> None:
    assert merges_here(arguments) is here


@pytest.mark.parametrize(
    ("statement", "code"), [("sys.exit(0)", 0), ("sys.exit(6)", 6), ("sys.exit()", 0), ("sys.exit(75)", 75)]
)
def test_the_process_ends_with_its_code_and_all_it_said_without_being_taken_apart(statement: str, code: int) -> None:
    done = ended(f"atexit.register(print, 'called'); {statement}")
    assert (done.returncode, done.stdout) == (code, "said called\n")


def test_an_end_that_is_no_exit_code_is_left_to_python() -> None:
    done = ended("sys.exit('a reason')")
    assert (done.returncode, done.stdout) == (1, "said taken apart ")
    assert done.stderr == "a reason\n"


def test_torch_is_imported_after_its_library_was_loaded() -> None:
    code = (
        "from svc_dist.cli.entry import load_library; load_library(); import torch; "
        "print(float(torch.ones(3, 3).mm(torch.ones(3, 3)).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "27.0\n"


def test_without_torch_nothing_is_said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    from svc_dist.cli.entry import load_library

    load_library()
    assert capfd.readouterr() == ("", "")


def test_a_closed_stream_is_nowhere_and_no_file_gets_its_number() -> None:
    code = (
        "import os, tempfile; os.close(2); import sys; sys.stderr = None; "
        "from svc_dist.cli.entry import open_closed_streams; open_closed_streams(); "
        "file = tempfile.TemporaryFile(); os.system('echo stray >&2'); os.write(2, b'stray'); "
        "print('stray', file=sys.stderr, flush=True); file.seek(0); print(file.fileno() > 2, file.read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True b''\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_libraries_are_imported_asks_for_another_start(number: signal.Signals) -> None:
    code = (
        "import os, sys; from svc_dist.cli import entry\n"
        "class Importing:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'svc_dist.cli.process': os.kill(os.getpid(), {number:d})\n"
        "sys.meta_path.insert(0, Importing()); entry.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (75, "interrupted; run the same command again to resume\n")
