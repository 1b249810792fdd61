"""The application: every command has its help, whose texts are literal and whose options list their values."""

from __future__ import annotations

import pytest
import typer
from click.testing import CliRunner

from svc_dist.cli.app import app
from svc_dist.errors import ExitCode

COMMAND = typer.main.get_command(app)
NAMES = sorted(COMMAND.commands)  # type: ignore[attr-defined]


def output(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(COMMAND, arguments)
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_a_command_does_and_gives_an_example(name: str) -> None:
    code, text = output(name, "--help")
    assert code == ExitCode.DONE
    assert f"Example: svc-dist {name}" in text


def test_the_list_of_commands_has_whole_sentences_and_the_exit_codes() -> None:
    code, text = output("--help")
    assert code == ExitCode.DONE
    assert "..." not in text.partition("Commands:")[2]
    assert "run the same command again to resume" in text


def test_brackets_in_a_help_text_are_literal() -> None:
    assert "Needs svc-dist[check]." in output("smoke", "--help")[1]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--precision", ("mixed", "fast", "float64")),
        ("--device", ("auto", "cpu", "cuda")),
        ("--executor", ("auto", "inline", "ray")),
        ("--log-format", ("text", "json")),
    ],
)
def test_an_enumerated_option_lists_its_values_and_refuses_others(option: str, values: tuple[str, ...]) -> None:
    assert f"{option} <{'|'.join(values)}>" in output("merge", "--help")[1]
    code, text = output("merge", "r.yaml", "out", option, "flot64")
    assert code == ExitCode.USAGE
    assert all(f"'{value}'" in text for value in values)


@pytest.mark.parametrize("command", ["plan", "inspect", "doctor"])
@pytest.mark.parametrize("option", ["--precision", "--device", "--threads-per-unit"])
def test_whatever_plans_takes_the_settings_of_a_merge(command: str, option: str) -> None:
    assert option in output(command, "--help")[1]


def test_demo_counts_its_merges_as_they_are() -> None:
    from pathlib import Path

    from svc_dist.demo.recipes import _texts

    assert len(_texts(Path("demo"))) == 6
    assert "merged in six ways" in output("demo", "--help")[1]
