"""Importing in the background what a run needs."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from svc_dist.run import early_imports
from svc_dist.run.early_imports import import_torch
from svc_dist.run.options import Options


def test_a_run_in_this_process_imports_torch_and_what_publishing_needs() -> None:
    thread = import_torch(Options())
    assert thread is not None
    thread.join(60)
    assert {"torch", "svc_dist.run.unit", "huggingface_hub.repocard"} <= set(sys.modules)


def test_a_driver_of_a_cluster_does_not() -> None:
    assert import_torch(replace(Options(), executor="ray")) is None
    assert import_torch(replace(Options(), address="auto")) is None


def test_an_import_that_fails_says_nothing_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(early_imports, "_NEEDED", ("no_such_module",))
    thread = import_torch(Options())
    assert thread is not None
    thread.join(60)
    assert capfd.readouterr() == ("", "")
