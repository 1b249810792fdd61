"""Commands about recipes: what they print."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch
import typer
import yaml
from click.testing import CliRunner, Result

import svc_dist
from svc_dist.cli.app import app
from svc_dist.errors import OutputError
from svc_dist.recipe.writing.explanations import explanations
from tests.support.checkpoints import write_checkpoint, write_llamas, write_recipe

COMMAND = typer.main.get_command(app)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(COMMAND, ["recipe", *map(str, arguments)])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    models = write_llamas(tmp_path / "models")
    return write_recipe(tmp_path / "recipe.yaml", models, method="ties", parameters={"int8_mask": True})


def test_fix_writes_a_new_file_and_overwrites_none(recipe: Path) -> None:
    before = recipe.read_text()
    done = run("fix", recipe)
    assert "# fix: removed: it has no effect" in done.stdout
    assert "removed 'int8_mask'" in done.stderr
    new = recipe.with_name("new.yaml")
    assert run("fix", recipe, "--output", new).exit_code == 0
    assert new.read_text() == done.stdout
    for taken in (new, recipe):
        assert isinstance(run("fix", recipe, "--output", taken).exception, OutputError)
    assert "relative to its folder" in str(
        run("fix", recipe, "--output", recipe.parent / "models" / "r.yaml").exception
    )
    assert recipe.read_text() == before


def test_fix_offers_what_planning_asks_for_as_a_comment(tmp_path: Path) -> None:
    weight, buffer = "model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"
    held = {"base": [weight, buffer], "one": [weight]}
    models = [write_checkpoint(tmp_path / name, {each: torch.ones(2, 2) for each in of}) for name, of in held.items()]
    recipe = write_recipe(tmp_path / "recipe.yaml", models)
    done = run("fix", recipe)
    assert "left open: 1 tensor cannot be merged" in done.stderr
    assert "# fix: svc_dist stops here: 1 tensor cannot be merged until a rule says what to do:" in done.stdout
    offered = done.stdout[done.stdout.index("#       rules:") :].partition("#     explain:")[0]
    rules = yaml.safe_load(textwrap.dedent(offered.replace("#", "")))
    recipe.write_text(recipe.read_text() + yaml.safe_dump(rules))
    svc_dist.make_plan(recipe)


def test_explain_explains_one_code_or_lists_all() -> None:
    assert "What to do: " in run("explain", "unknown-key").output
    assert run("explain", "[unknown-key]").output == run("explain", "unknown-key").output
    assert [line.split()[0] for line in run("explain").output.splitlines()] == sorted(
        explanations(), key=lambda code: (explanations()[code].kind, code)
    )
