"""What options name is checked before any work begins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer

from svc_dist.cli.options import access_of, require_writable_file, require_writable_folder
from svc_dist.errors import RecipeError, StorageError

AS_ROOT = os.geteuid() == 0


def test_a_file_in_a_missing_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--html: there is no folder .*/new\n  create it first: mkdir -p"):
        require_writable_file(tmp_path / "new" / "page.html", "--html")
    with pytest.raises(RecipeError, match="which is a folder"):
        require_writable_file(tmp_path, "--html")
    require_writable_file(tmp_path / "page.html", "--html")
    require_writable_file(None, "--html")


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="may not write to the folder"):
        require_writable_folder(tmp_path, "--folder")


def test_options_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="leave out --profile"):
        access_of(None, "me", anonymous=True)
    for seconds in (float("nan"), 0.0):
        with pytest.raises(typer.BadParameter, match="number of seconds"):
            access_of(None, None, timeout=seconds)
