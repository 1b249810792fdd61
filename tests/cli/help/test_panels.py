"""Help in groups: every command and every option has one, and nothing of a text is taken for markup."""

from __future__ import annotations

import pytest
import typer
from click.testing import CliRunner

from svc_dist.cli.app import COMMANDS, app
from svc_dist.cli.help import panels

COMMAND = typer.main.get_command(app)


def sections(*arguments: str) -> dict[str, list[str]]:
    """The headings of a help page and the lines below each."""
    found: dict[str, list[str]] = {}
    for line in CliRunner().invoke(COMMAND, [*arguments, "--help"]).output.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            found[line[:-1]] = []
        elif found and line.startswith("  "):
            found[list(found)[-1]].append(line.strip())
    return found


def test_commands_are_listed_by_purpose() -> None:
    listed = sections()
    assert list(listed)[:4] == ["Plan", "Run", "Check", "Learn"]
    first = {group: [line.split()[0] for line in listed[group]] for group in COMMANDS}
    assert first["Plan"] == ["plan", "doctor", "inspect", "measure-host", "recipe"]
    assert first["Check"] == ["verify", "smoke", "report", "diff"]
    assert "merge" in first["Run"]
    assert "Commands" not in listed


def test_meanings_stand_below_each_other_whatever_the_group() -> None:
    lines = [line for group in COMMANDS for line in sections()[group]]
    starts = {len(line) - len(line.split(None, 1)[1]) for line in lines if len(line.split()) > 1}
    assert len(starts) == 1


def test_options_are_listed_by_what_they_are_about() -> None:
    listed = sections("merge")
    assert next(iter(listed)) == "Arguments"
    assert "--endpoint-url" in " ".join(listed[panels.STORAGE])
    assert "--quiet" in " ".join(listed[panels.LOG])
    assert "--address" in " ".join(listed[panels.MACHINES])
    assert "--help" in " ".join(listed[panels.OPTIONS])
    assert "--endpoint-url" not in " ".join(listed[panels.OPTIONS])


@pytest.mark.parametrize("name", sorted(COMMAND.commands))  # type: ignore[attr-defined]
def test_every_option_is_in_a_known_group(name: str) -> None:
    command = COMMAND.commands[name]  # type: ignore[attr-defined]
    assert command.rich_help_panel in COMMANDS
    assert {panels.group_of(parameter) for parameter in command.params} <= set(panels.GROUPS)
