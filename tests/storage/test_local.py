"""What must not be replaced by a file on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_dist.errors import OutputError
from svc_dist.storage.local import LocalStorage, require_replaceable


@pytest.mark.parametrize("target", ["/dev/null", "/proc/self/fd/1"])
def test_a_device_and_an_open_stream_are_not_replaced(tmp_path: Path, target: str) -> None:
    link = tmp_path / "report.json"  # a link: no test replaces /dev/null itself
    link.symlink_to(target)
    with pytest.raises(OutputError, match="device"):
        require_replaceable(link)


def test_a_link_to_a_file_is_replaced_and_the_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "report.json").symlink_to("other")
    require_replaceable(tmp_path / "report.json")
    LocalStorage(str(tmp_path)).put("report.json", b"{}")
    assert (tmp_path / "other").read_text() == "other"
    assert not (tmp_path / "report.json").is_symlink()
