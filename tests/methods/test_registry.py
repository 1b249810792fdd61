"""A method and a calibration are one function and one declaration, in this package or in an installed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from svc_dist.methods.method import load
from svc_dist.methods.registry import CALIBRATIONS, METHODS
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.command import Ended
from tests.support.forked import forked

DECLARATIONS = '''
"""What the package declares. Importing it loads no torch."""

import os

from svc_dist.methods.elementwise.costs import of_result, per_entry
from svc_dist.methods.method import Calibration, Method
from svc_dist.methods.parameters import ByExperts, Parameter
from svc_dist.methods.spectral.costs import iso_c_memory, iso_c_work

DECLARED = (
    Method(
        name="shared_sum", function="own_methods.functions:shared_sum", family="elementwise", doc="a share of the sum",
        parameters=(Parameter("share", float, 0.5, "of the sum"),), version=int(os.environ.get("OWN_VERSION", "1")),
        work=per_entry(2), memory=of_result,
    ),
    Method(
        name="leading", function="own_methods.functions:leading", family="spectral",
        doc="leading directions of the sum", several="rank",
        parameters=(Parameter("rank", int, 1, "how many directions", low=1),),
        work=iso_c_work, memory=iso_c_memory,
    ),
    Calibration(
        name="shrink", function="own_methods.functions:shrink", doc="every direction, by one factor",
        parameters=(Parameter("factor", float, ByExperts("1/K", lambda k: 1 / k), "of all singular values"),),
        work=per_entry(1), memory=of_result,
    ),
)
'''
FUNCTIONS = """
import torch

from svc_dist.methods.merged import Merged


def shared_sum(deltas, *, share):
    return deltas.total() * share


def leading(deltas, *, rank):
    left, values, right = torch.linalg.svd(deltas.total(), full_matrices=False)
    for count in rank:
        yield Merged((left[:, :count] * values[:count]) @ right[:count], {"kept_rank": count})


def shrink(merged, deltas, *, factor):
    return Merged(merged.delta * factor, {"factor": factor})
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a package as pip installs it, whose entry point declares two methods and a calibration."""
    folder = tmp_path / "site"
    (folder / "own_methods").mkdir(parents=True)
    (folder / "own_methods" / "__init__.py").write_text(DECLARATIONS)
    (folder / "own_methods" / "functions.py").write_text(FUNCTIONS)
    (folder / "own_methods-1.0.dist-info").mkdir()
    (folder / "own_methods-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: own_methods\n")
    entry = "[svc_dist.methods]\nown = own_methods:DECLARED\n"
    (folder / "own_methods-1.0.dist-info" / "entry_points.txt").write_text(entry)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return write_llamas(tmp_path / "models", experts=2)


def variables(installed: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", str(Path.cwd()))])
    return {**os.environ, "PYTHONPATH": path, **more}


def ran(installed: Path, *arguments: str | Path) -> Ended:
    """A command of the package, beside the installed one."""
    with forked(arguments, variables(installed)) as process:
        out, err = process.communicate()
    return Ended(process.returncode, out, err)


def merged(installed: Path, models: list[Path], output: Path, method: str, **keys: Any) -> dict[str, Tensor]:
    """The tensors that ``svc-dist merge`` writes."""
    recipe = output.with_suffix(".yaml")
    write_recipe(recipe, models, method, dtype="float32", **keys)
    done = ran(installed, "merge", recipe, output, "--executor", "inline")
    assert done.code == 0, done.err
    return {name: tensor for file in output.glob("*.safetensors") for name, tensor in load_file(file).items()}


def deltas(models: list[Path], name: str) -> tuple[Tensor, Tensor]:
    """The base's tensor, and the sum of the experts' deltas."""
    base, *experts = (
        next(tensor for file in model.glob("*.safetensors") for key, tensor in load_file(file).items() if key == name)
        for model in models
    )
    return base.float(), sum((expert.float() - base.float() for expert in experts), torch.zeros(()))


NAME = "model.layers.0.mlp.up_proj.weight"


def test_an_elementwise_method_of_an_installed_package_and_its_calibration(
    installed: Path, models: list[Path], tmp_path: Path
) -> None:
    calibrate = {"method": "shrink"}
    result = merged(
        installed, models, tmp_path / "out", "shared_sum", parameters={"share": 0.25}, calibrate=calibrate
    )  # fmt: skip
    base, total = deltas(models, NAME)
    assert torch.allclose(result[NAME], base + total * 0.25 / 2)
    norm = "model.norm.weight"
    base, total = deltas(models, norm)
    assert torch.allclose(result[norm], base + total * 0.25), "no matrix, so not calibrated"
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    assert "shrink" in json.dumps(report)


def test_a_spectral_method_of_an_installed_package_shares_a_decomposition(
    installed: Path, models: list[Path], tmp_path: Path
) -> None:
    outputs = [{"path": f"r{rank}", "parameters": {"rank": rank}} for rank in (1, 3)]
    merged(installed, models, tmp_path / "out", "leading", outputs=outputs)
    base, total = deltas(models, NAME)
    left, values, right = torch.linalg.svd(total, full_matrices=False)
    for rank in (1, 3):
        files = (tmp_path / "out" / f"r{rank}").glob("*.safetensors")
        result = next(tensors[NAME] for tensors in map(load_file, files) if NAME in tensors)
        expected = base + (left[:, :rank] * values[:rank]) @ right[:rank]
        assert torch.allclose(result, expected, atol=1e-6)


def test_the_commands_know_them(installed: Path, models: list[Path], tmp_path: Path) -> None:
    listed = ran(installed, "methods").out
    assert "shared_sum" in listed
    assert "rank 1" in listed
    assert "factor 1/K" in listed
    write_recipe(tmp_path / "r.yaml", models, "leading", calibrate={"method": "shrink", "factor": 0.5})
    planned = ran(installed, "plan", tmp_path / "r.yaml")
    assert "merged by leading" in planned.out, planned.err
    assert "calibrated by shrink" in planned.out
    write_recipe(tmp_path / "r.yaml", models, "leading", calibrate={"method": "shrink", "alpha": 0.5})
    refused = ran(installed, "plan", tmp_path / "r.yaml")
    assert refused.code == 2
    assert "shrink takes no parameter 'alpha'" in refused.err


def test_the_version_of_a_method_is_part_of_the_fingerprint(
    installed: Path, models: list[Path], tmp_path: Path
) -> None:
    write_recipe(tmp_path / "r.yaml", models, "shared_sum")
    code = "import sys, svc_dist; print(svc_dist.make_plan(sys.argv[1]).fingerprint); assert 'torch' not in sys.modules"
    first, second, again = (
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "r.yaml")], env=variables(installed, OWN_VERSION=version),
            capture_output=True, text=True, check=False,
        )
        for version in ("1", "2", "1")
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout != second.stdout


def test_a_package_that_cannot_be_loaded_is_left_out_with_a_warning(installed: Path) -> None:
    (installed / "own_methods" / "__init__.py").write_text("raise ValueError('broken')")
    listed = ran(installed, "methods")
    assert listed.code == 0
    assert "task_arithmetic" in listed.out
    assert "own_methods:DECLARED cannot be loaded: ValueError: broken" in listed.err


def test_a_name_that_is_taken_stays_with_the_built_in_method(installed: Path) -> None:
    (installed / "own_methods" / "__init__.py").write_text(DECLARATIONS.replace('"shared_sum"', '"svc"'))
    listed = ran(installed, "methods")
    assert "'svc' of own_methods.functions:shared_sum is ignored" in listed.err
    assert "a share of the sum" not in listed.out


@pytest.mark.parametrize("declared", [*METHODS.values(), *CALIBRATIONS.values()], ids=lambda declared: declared.name)
def test_every_declared_function_is_there(declared: Any) -> None:
    names = [getattr(declared, field, None) for field in ("function", "statistics", "factored")]
    assert all(callable(load(name)) for name in names if isinstance(name, str))
    assert declared.several is None or declared.parameter(declared.several) is not None
