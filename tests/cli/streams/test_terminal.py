"""Whatever a command says goes through one door."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest

import svc_dist.cli
from svc_dist.cli.streams.terminal import OK, WRONG, say, say_json


def test_names_cannot_reach_the_terminal_raw(capsys: pytest.CaptureFixture[str]) -> None:
    say("name \x1b]0;x\x07\u202e\udcff", label="error:", colour="red", err=True)
    say("two\nlines")
    say_json('{"a": "\x9b"}')
    said = capsys.readouterr()
    assert said.err == "error: name \\x1b]0;x\\x07\\u202e\\udcff\n"
    assert said.out == 'two\nlines\n{"a": "\\u009b"}\n'


def test_nothing_else_in_the_command_line_prints_a_text() -> None:
    """Other modules may print constants and numbers only."""
    folder = Path(svc_dist.cli.__file__).parent
    for file in sorted(folder.glob("*.py")):
        if file.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.echo", "print", "sys.stdout.write"):
                values = [part for part in ast.walk(node.args[0]) if isinstance(part, ast.FormattedValue)]
                assert isinstance(node.args[0], ast.JoinedStr | ast.Constant | ast.BinOp), ast.unparse(node)
                assert all(value.format_spec is not None or "version" in ast.unparse(value) for value in values)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_labels_are_in_colour_on_a_terminal_that_wants_them(
    variables: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    say("no such file", label="error:", colour=WRONG, err=True)
    assert terminal.getvalue() == ("\x1b[31merror:\x1b[0m no such file\n" if coloured else "error: no such file\n")


def test_elsewhere_there_are_no_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    say("reads", label="ok", colour=OK)
    assert capsys.readouterr().out == "ok reads\n"
