"""What to do with a model that was just merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.cli.overview.next_steps import next_steps


def test_a_model_on_a_disk(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    head, *lines = next_steps(str(folder))
    assert head == "next:"
    assert [line[:4] for line in lines[::2]] == ["  # "] * 3
    assert [line.strip() for line in lines[1::2]] == [
        f"svc-dist smoke '{folder}'",
        f"svc-dist report '{folder}'",
        f"hf upload OWNER/NAME '{folder}'",
    ]
    assert not any("calibrat" in line for line in lines)  # the merge may have none


def test_lines_of_a_short_path_do_not_wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("half", "whole"):
        (tmp_path / "merged" / name).mkdir(parents=True)
        (tmp_path / "merged" / name / "config.json").write_text("{}")
    lines = next_steps("merged/")
    assert "  svc-dist smoke merged/half" in lines
    assert max(map(len, lines)) <= 80


def test_an_adapter_is_not_loaded_by_itself(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert next_steps(str(tmp_path))[2] == f"  svc-dist report {tmp_path}"


def test_of_several_results_the_first_stands_for_all(tmp_path: Path) -> None:
    for name in ("half", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    _, about, command, *_ = next_steps(str(tmp_path))
    assert command == f"  svc-dist smoke {tmp_path}/half"
    assert about.endswith("and so each of the results")


def test_a_remote_model_is_read_back() -> None:
    commands = [line.strip() for line in next_steps("s3://bucket/merged")[2::2]]
    assert commands == ["svc-dist verify s3://bucket/merged --deep", "svc-dist report s3://bucket/merged"]
