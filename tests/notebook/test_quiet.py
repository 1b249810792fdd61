"""What a notebook is not told."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest

from svc_dist.notebook import quiet
from tests.notebook.test_bar import pretend


def test_in_a_notebook_the_module_is_imported_without_its_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = list[str]()

    def warn(name: str) -> None:
        imported.append(name)
        warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", stacklevel=1)

    monkeypatch.setattr(quiet, "import_module", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet.import_without_warnings()
        assert imported == []  # no notebook: nothing is imported early
        pretend(monkeypatch, SimpleNamespace(kernel=object()))
        quiet.import_without_warnings()
    assert imported == ["tqdm.auto"]
