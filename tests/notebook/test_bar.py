"""The bar of progress in a notebook, with IPython's own two functions pretended."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from svc_dist.notebook.bar import NotebookBar, in_notebook


class Outputs:
    """The outputs of a cell; each update of a handle replaces one."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, data: dict[str, str], raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        self.shown.append(data)
        number = len(self.shown) - 1
        return SimpleNamespace(update=lambda data, raw: self.shown.__setitem__(number, data))


def pretend(monkeypatch: pytest.MonkeyPatch, shell: object) -> Outputs:
    outputs = Outputs()
    package, display = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = lambda: shell  # type: ignore[attr-defined]
    display.display = outputs.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return outputs


def test_only_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    pretend(monkeypatch, None)
    assert not in_notebook()  # IPython is imported, but does not run
    pretend(monkeypatch, SimpleNamespace())
    assert not in_notebook()  # IPython on a terminal
    pretend(monkeypatch, SimpleNamespace(kernel=object()))
    assert in_notebook()


def test_the_bar_is_one_output_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = pretend(monkeypatch, SimpleNamespace(kernel=object()))
    bar = NotebookBar()
    bar.start()
    for share in (0.0, 0.25, 1.0):
        bar.update(share, "some of <all> units")
    bar.stop()
    (shown,) = outputs.shown
    assert shown["text/plain"] == "100% done: some of <all> units"
    assert "<progress" in shown["text/html"]
    assert "&lt;all&gt;" in shown["text/html"]
    assert "<script" not in shown["text/html"]
