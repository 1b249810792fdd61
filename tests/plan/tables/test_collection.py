"""The garbage collector pauses while plans are made, also where several are made in parallel, and runs again after."""

from __future__ import annotations

import gc

import pytest

from svc_dist.plan.tables.collection import collection_paused


def test_the_collector_pauses_until_the_last_of_several_pauses_ends() -> None:
    assert gc.isenabled()
    one, other = collection_paused(), collection_paused()
    one.__enter__()
    other.__enter__()
    assert not gc.isenabled()
    one.__exit__(None, None, None)
    assert not gc.isenabled()
    other.__exit__(None, None, None)
    assert gc.isenabled()


def test_the_collector_runs_again_after_an_error_and_stays_off_where_it_was() -> None:
    with pytest.raises(ValueError, match="stopped"), collection_paused():
        raise ValueError("stopped")
    assert gc.isenabled()
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
