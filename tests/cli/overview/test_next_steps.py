"""What to do with a model that was just merged."""

from __future__ import annotations

from pathlib import Path

from svc_dist.cli.overview.next_steps import next_steps


def test_a_model_on_a_disk(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    commands = [line[6:].partition("  #")[0].strip() for line in next_steps(str(folder))]
    assert commands == [f"svc-dist smoke '{folder}'", f"svc-dist report '{folder}'", f"hf upload OWNER/NAME '{folder}'"]
    assert [line[:6] for line in next_steps(str(folder))] == ["next: ", "      ", "      "]


def test_an_adapter_is_not_loaded_by_itself(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert next_steps(str(tmp_path))[0].startswith(f"next: svc-dist report {tmp_path}")


def test_of_several_results_the_first_stands_for_all(tmp_path: Path) -> None:
    for name in ("half", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    first, *_ = next_steps(str(tmp_path))
    assert f"smoke {tmp_path}/half " in first
    assert first.endswith("and so each of the results")


def test_a_remote_model_is_read_back() -> None:
    first, *rest = next_steps("s3://bucket/merged")
    assert first.startswith("next: svc-dist verify s3://bucket/merged --deep")
    assert [line.split()[1] for line in rest] == ["report"]
