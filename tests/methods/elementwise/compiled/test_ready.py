"""Compiled loops are there where numba is and a tensor is worth loading them; nothing else depends on numba."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from svc_dist.methods.elementwise.compiled import ready

LARGE = 1 << 20


@pytest.fixture
def fresh() -> Iterator[None]:
    """As in a process that has loaded nothing."""
    ready._loaded.cache_clear()
    yield
    ready._loaded.cache_clear()


def test_small_tensors_load_nothing_but_use_what_is_loaded(fresh: None) -> None:
    assert ready.loops(LARGE - 1) is None
    assert ready.loops(LARGE) is not None
    assert ready.loops(1) is ready.loops(LARGE)


def test_without_numba_torch_does_all(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert ready.loops(LARGE) is None
    assert ready.loops(1) is None


def test_a_broken_numba_is_no_error(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(importlib, "import_module", fail)
    assert ready.loops(LARGE) is None


def test_loops_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from svc_dist.methods.elementwise.compiled import loops

    asked = []

    def njit(signature: str, nogil: bool, cache: bool = False) -> Any:
        asked.append((nogil, cache))
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'loops.py'")
        return lambda function: function

    monkeypatch.setattr(loops, "njit", njit)
    assert loops._compiled("void()")(len) is len
    assert asked == [(True, True), (True, False)]


def run(script: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    ).stdout


def test_several_threads_may_ask_first() -> None:
    script = """
import threading
from svc_dist.methods.elementwise.compiled import ready
found, barrier = [], threading.Barrier(4)
def ask():
    barrier.wait()
    found.append(ready.loops(1 << 20))
threads = [threading.Thread(target=ask) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(found), len({id(one) for one in found}), found[0].__name__, all(hasattr(one, "added") for one in found))
"""
    assert run(script).split() == ["4", "1", "svc_dist.methods.elementwise.compiled.loops", "True"]


def test_numba_that_compiles_nothing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert run("from svc_dist.methods.elementwise.compiled import ready; print(ready.loops(1 << 20))").strip() == "None"


def test_what_merges_imports_no_numba_before_it_is_needed() -> None:
    modules = "svc_dist.run.unit, svc_dist.methods.elementwise.ties, svc_dist.methods.elementwise.dare"
    assert run(f"import sys, svc_dist, {modules}; print('numba' in sys.modules)").strip() == "False"
