"""The package that docs/extending.md prints, installed as it stands there and used through the command."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from svc_dist.errors import ExitCode
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import run, shard_hashes

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def addons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files in a folder that Python searches, with the metadata that pip would write."""
    site = tmp_path / "site"
    for name, text in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    project = tomllib.loads((site / "pyproject.toml").read_text())["project"]
    metadata = site / "addons-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (site / "addons" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    return site


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return write_llamas(tmp_path / "models", experts=3, layers=1, hidden=64, intermediate=64, vocabulary=50)


def tensor(folder: Path, name: str) -> Tensor:
    return next(
        value.float() for file in folder.glob("*.safetensors") for key, value in load_file(file).items() if key == name
    )


def deltas(models: list[Path], name: str) -> Tensor:
    base, *experts = (tensor(model, name) for model in models)
    return torch.stack([expert - base for expert in experts])


def test_a_method(models: list[Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", models, "median", dtype="float32")
    run("merge", recipe, tmp_path / "out", home=tmp_path)
    expected = tensor(models[0], NAME) + deltas(models, NAME).median(dim=0).values
    assert torch.equal(tensor(tmp_path / "out", NAME), expected)
    assert "median" in run("methods", home=tmp_path).out


def test_a_spectral_method_and_a_calibration(models: list[Path], tmp_path: Path) -> None:
    keys = {"parameters": {"rank": 2}, "calibrate": "damp", "dtype": "float32"}
    recipe = write_recipe(tmp_path / "recipe.yaml", models, "leading", **keys)
    run("merge", recipe, tmp_path / "out", home=tmp_path)
    left, values, right = torch.linalg.svd(deltas(models, NAME).sum(0), full_matrices=False)
    expected = tensor(models[0], NAME) + (left[:, :2] * values[:2]) @ right[:2] / 3
    assert torch.allclose(tensor(tmp_path / "out", NAME), expected, atol=1e-5)
    matrices = json.loads((tmp_path / "out" / "merge_report.json").read_text())["matrices"]
    assert {(matrix["kept_rank"], matrix["factor"]) for matrix in matrices} == {(2, 1 / 3)}


def test_a_storage_for_inputs_and_output(models: list[Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", models)
    run("merge", recipe, tmp_path / "out", home=tmp_path)
    database = tmp_path / "models.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE files (name TEXT PRIMARY KEY, data BLOB)")
        files = [(f"{model.name}/{file.name}", file.read_bytes()) for model in models for file in model.iterdir()]
        connection.executemany("INSERT INTO files VALUES (?, ?)", files)
    stored = [f"sqlite://{database}/{model.name}" for model in models]
    recipe = write_recipe(tmp_path / "stored.yaml", stored)
    run("merge", recipe, f"sqlite://{database}/out", home=tmp_path)
    run("verify", f"sqlite://{database}/out", "--deep", home=tmp_path)
    with sqlite3.connect(database) as connection:
        written = dict(connection.execute("SELECT name, data FROM files WHERE name LIKE 'out/%.safetensors'"))
    assert written == {f"out/{file.name}": file.read_bytes() for file in (tmp_path / "out").glob("*.safetensors")}


def test_a_format_is_refused_by_its_name(tmp_path: Path) -> None:
    models = [tmp_path / name for name in ("base", "expert")]
    for number, model in enumerate(models):
        model.mkdir()
        codes = torch.full((4, 4), number, dtype=torch.uint8)
        save_file(
            {"a.trits": codes, "a.steps": torch.ones(4), "b.weight": torch.ones(4, 4)}, model / "model.safetensors"
        )
    recipe = write_recipe(tmp_path / "recipe.yaml", models)
    said = run("merge", recipe, tmp_path / "out", home=tmp_path, expect=ExitCode.USAGE).err
    assert "a.trits: U8 in" in said
    assert "is quantised (ternary)" in said
    assert "use the bfloat16 checkpoint of the same training run" in said
    assert "1 more tensor like a.steps: companions of quantised tensors" in said


def test_an_executor(models: list[Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", models, calibrate="svc")
    run("merge", recipe, tmp_path / "inline", home=tmp_path)
    run("merge", recipe, tmp_path / "out", "--executor", "serial", home=tmp_path)
    assert shard_hashes(tmp_path / "out") == shard_hashes(tmp_path / "inline")
    assert json.loads((tmp_path / "out" / "merge_report.json").read_text())["last_start"]["executor"] == "serial"
