"""Whatever a command says goes through one door."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import svc_dist.cli
from svc_dist.cli.streams.terminal import say, say_json


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
