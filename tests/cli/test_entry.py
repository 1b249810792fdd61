"""The command's first and last instants."""

from __future__ import annotations

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
