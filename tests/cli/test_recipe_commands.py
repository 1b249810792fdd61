"""Commands about recipes: what they print."""

from __future__ import annotations

import typer
from click.testing import CliRunner, Result

from svc_dist.cli.app import app
from svc_dist.recipe.writing.explanations import explanations

COMMAND = typer.main.get_command(app)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(COMMAND, ["recipe", *map(str, arguments)])


def test_explain_explains_one_code_or_lists_all() -> None:
    assert "What to do: " in run("explain", "unknown-key").output
    assert run("explain", "[unknown-key]").output == run("explain", "unknown-key").output
    assert [line.split()[0] for line in run("explain").output.splitlines()] == sorted(
        explanations(), key=lambda code: (explanations()[code].kind, code)
    )
