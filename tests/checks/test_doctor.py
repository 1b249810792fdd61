"""The doctor: each check finds what it is for, calls it what it is, and leaves nothing behind."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import NoReturn

import pytest
import typer
from click.testing import CliRunner, Result

from svc_dist.checks import doctor, room
from svc_dist.checks.doctor import examine
from svc_dist.checks.examination import Finding
from svc_dist.cli.app import app
from svc_dist.errors import ExitCode, ResourceError, StorageError
from svc_dist.plan.settings import Device, SettingsRequest
from svc_dist.run import host
from tests.support.checkpoints import write_llamas, write_recipe


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(typer.main.get_command(app), [str(argument) for argument in arguments])


def findings(recipe: Path, output: Path | str) -> dict[str, Finding]:
    """By subject, without the paths that follow it."""
    found = examine(recipe, str(output), SettingsRequest(device=Device.CPU))
    return {" ".join(finding.subject.split(" /")[:1]): finding for finding in found}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_recipe(folder / "recipe.yaml", write_llamas(folder))


def test_a_sound_merge_passes_and_nothing_is_left_behind(recipe: Path, tmp_path: Path) -> None:
    found = findings(recipe, tmp_path / "new" / "out")
    assert [finding.text() for finding in found.values() if finding.problem is not None] == []
    assert {"input", "plan", "output", "writing", "removing", "memory", "devices", "versions"} <= set(found)
    assert found["plan"].seen.startswith("21 tensors, 1 unit on cpu, ")
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_is_gone_is_a_finding_and_no_plan_is_tried(recipe: Path, tmp_path: Path) -> None:
    broken = write_recipe(tmp_path / "r.yaml", [recipe.parent / "base", tmp_path / "nowhere"])
    found = findings(broken, tmp_path / "out")
    assert found["input"].exit_code == ExitCode.USAGE
    assert "nowhere" in found["input"].text()
    assert "plan" not in found
    assert found["writing"].problem is None


def test_inputs_and_the_output_are_waited_for_together(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(4)

    def waiting(*_: object) -> NoReturn:
        together.wait(20)  # fails where they come one after another
        raise StorageError("no answer")

    monkeypatch.setattr(doctor, "open_expert", waiting)
    monkeypatch.setattr(doctor.Output, "exists", waiting)
    found = list(examine(recipe, str(tmp_path / "out"), SettingsRequest(device=Device.CPU)))
    assert [one.subject.split(" ")[0] for one in found] == ["input"] * 3 + ["output", "devices", "versions"]
    assert [one.text().endswith("no answer") for one in found] == [True] * 4 + [False] * 2


def test_an_output_that_is_a_file_is_a_finding(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    found = findings(recipe, tmp_path / "file")
    assert found["output"].exit_code == ExitCode.USAGE
    assert "writing" not in found
    assert (tmp_path / "file").read_text() == "mine"


def test_low_memory_is_called_what_it_is(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 1000)
    done = run("doctor", recipe, tmp_path / "out")
    assert done.exit_code == ResourceError.exit_code == 6
    assert "WRONG  memory: the largest unit needs" in done.stdout


def test_a_gpus_unit_is_held_against_the_gpus_memory(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (doctor, room, host):
        monkeypatch.setattr(module, "detect_device", lambda: "cuda")
    monkeypatch.setattr(host, "identify_gpu", lambda: ("NVIDIA H100", "2.13.0+cu130"))
    monkeypatch.setattr(room, "available_memory", lambda: 1000)
    monkeypatch.setattr(room, "device_memory", lambda device: 80 * 10**9 if device == "cuda" else None)
    done = run("doctor", recipe, tmp_path / "out")
    assert "ok     memory: 80.00 GB for units on the smallest device" in done.stdout
    assert done.exit_code == 0


def test_json_is_one_object_with_a_state_and_the_same_exit_code(recipe: Path, tmp_path: Path) -> None:
    done = run("doctor", recipe, tmp_path / "out", "--json")
    said = json.loads(done.stdout)
    assert (done.exit_code, said["state"], said["exit_code"]) == (0, "ok", 0)
    assert {one["state"] for one in said["findings"]} == {"ok"}
    (tmp_path / "file").write_text("mine")
    done = run("doctor", recipe, tmp_path / "file", "--json")
    said = json.loads(done.stdout)
    assert (done.exit_code, said["state"], said["exit_code"]) == (ExitCode.USAGE, "wrong", ExitCode.USAGE)
    (wrong,) = [one for one in said["findings"] if one["state"] == "wrong"]
    assert wrong["subject"].startswith("output")
    assert wrong["problem"]
    assert wrong["hint"]
