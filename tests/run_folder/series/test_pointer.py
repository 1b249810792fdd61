"""The dates of a series (svc_dist.run_folder.series.dates), and the pointer to its newest output."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.errors import OutputError
from svc_dist.recipe import paths
from svc_dist.run_folder.series.dates import Series, series_of
from svc_dist.run_folder.series.pointer import Pointer, resolved
from svc_dist.storage.access import DEFAULT_ACCESS


def series(output: str) -> Series:
    found = series_of(output, DEFAULT_ACCESS)[1]
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "today", lambda: "2026-11-29")


def test_dates_are_those_of_folders_up_to_today(tmp_path: Path) -> None:
    for name in ("a-2026-11-28", "a-2026-11-30", "a-2026-11-03", "b-2026-11-01", "a-latest", "a-2026-1-1", "a-"):
        (tmp_path / name).mkdir()
    (tmp_path / "a-2026-11-02").write_text("a file")
    one = series(f"{tmp_path}/a-{{date}}")
    assert one.dates() == ["2026-11-28", "2026-11-03"]
    assert one.location("2026-11-28") == f"{tmp_path}/a-2026-11-28"
    assert one.latest == f"{tmp_path}/a-latest"
    assert list(one.complete()) == []
    assert one.unfinished() is None
    assert series_of(f"{tmp_path}/plain", DEFAULT_ACCESS) == (f"{tmp_path}/plain", None)


def test_a_date_in_the_middle(tmp_path: Path) -> None:
    one = series(f"{tmp_path}/{{date}}/merged/")
    assert (one.latest, one.depth) == (f"{tmp_path}/latest/merged", 2)
    pointer = Pointer(one)
    pointer.switch("2026-11-28")
    assert (tmp_path / "latest" / "merged").readlink() == Path("../2026-11-28/merged")
    assert pointer.names("2026-11-28")
    assert not pointer.names("2026-11-27")


def test_a_link_is_switched_in_one_step_and_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pointer = Pointer(series("out/{date}"))
    assert pointer.target() is None
    for date in ("2026-11-28", "2026-11-29"):
        pointer.switch(date)
        assert pointer.names(date)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["latest"]
    assert (tmp_path / "out" / "latest").readlink() == Path("2026-11-29"), "relative: the folder may be moved"


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_others_files_are_not_replaced(tmp_path: Path, make: object) -> None:
    make(tmp_path / "latest")  # type: ignore[operator]
    with pytest.raises(OutputError, match="no pointer"):
        Pointer(series(f"{tmp_path}/{{date}}"))


def test_on_other_storages_it_is_an_object_that_commands_read() -> None:
    one = series("memory://models/n-{date}")
    pointer = Pointer(one)
    pointer.switch("2026-11-28")
    assert pointer.names("2026-11-28")
    for more in ("", "/strong", "/strong/deep"):
        location = resolved(f"memory://models/n-latest{more}", DEFAULT_ACCESS)
        assert location == f"memory://models/n-2026-11-28{more}"
    for other in ("memory://models/latest", "memory://models/n-2026-11-28", "/latest", "latest"):
        assert resolved(other, DEFAULT_ACCESS) == other
