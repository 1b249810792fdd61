"""Functions of ``svc_dist`` that take a recipe, and how the package shows all of its functions."""

from __future__ import annotations

import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import RecipeError
from tests.support.checkpoints import recipe_data, write_llamas


def test_dir_and_help_show_the_functions_and_load_neither_torch_nor_ray() -> None:
    script = (
        "import sys, svc_dist, pydoc; shown = dir(svc_dist); print('svc_dist.api' in sys.modules); "
        "text = pydoc.render_doc(svc_dist, renderer=pydoc.plaintext); print({'torch', 'ray'} & set(sys.modules)); "
        "print([name for name in svc_dist.__all__ if name not in shown or f'{name}(' not in text])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["False", "set()", "[]"]


def test_dir_shows_nothing_that_the_package_imports_for_itself() -> None:
    assert {name for name in dir(svc_dist) if not name.startswith("__")} == {*svc_dist.__all__, "errors"}


@pytest.mark.parametrize("name", svc_dist.__all__)
def test_every_public_name_says_what_it_is_and_what_it_raises(name: str) -> None:
    text = pydoc.getdoc(getattr(svc_dist, name))
    assert text
    assert f"``{name}``" in pydoc.getdoc(svc_dist)
    assert name == "SvcDistError" or "Error" in text


def test_doctor_finds_what_a_merge_would_meet(tmp_path: Path) -> None:
    models = write_llamas(tmp_path / "models")
    sound = svc_dist.doctor(recipe_data(models), tmp_path / "out", device="cpu")
    assert sound.ok
    assert {"plan", "memory", "versions"} <= {finding.subject for finding in sound.findings}
    assert not (tmp_path / "out").exists()
    broken = svc_dist.doctor(recipe_data([*models[:-1], tmp_path / "gone"]), tmp_path / "out", device="cpu")
    assert not broken.ok
    problem = next(finding.problem for finding in broken.findings if finding.subject.endswith("gone"))
    assert problem is not None
    assert broken.exit_code == problem.exit_code
    with pytest.raises(RecipeError):
        svc_dist.doctor(recipe_data(models, method="none-such"), tmp_path / "out")


def test_a_plan_shows_itself_as_a_line_and_as_a_table(tmp_path: Path) -> None:
    models = write_llamas(tmp_path / "models")
    plan = svc_dist.make_plan(recipe_data(models, method="ties", calibrate="svc"))
    assert repr(plan) == f"<Plan: 2 experts into {models[0]}, 21 tensors in 1 shard, 14.50 kB, 1 unit>"
    shown = plan._repr_html_()
    assert all(text in shown for text in ("merged by ties, calibrated by svc", str(models[2]), plan.fingerprint[:16]))
    assert sum(map(len, (repr(plan), shown))) < 10_000


def test_predictions_and_examinations_print_as_one_line(tmp_path: Path) -> None:
    recipe = recipe_data(write_llamas(tmp_path / "models"))
    assert repr(svc_dist.predict(recipe, "nodes=1,cpus=2")).startswith("<Prediction: about ")
    assert repr(svc_dist.doctor(recipe, tmp_path / "out", device="cpu")).startswith("<Examination: ok; ")
