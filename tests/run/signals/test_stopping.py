"""Requests to stop, and who learns of them (svc_dist.run.signals.stopping)."""

from __future__ import annotations

import signal
import threading

from svc_dist.run.signals.stopping import recorded_stop, signals


def test_a_stop_that_a_part_took_is_known_outside_and_to_later_parts() -> None:
    first, second = threading.Event(), threading.Event()
    with recorded_stop() as outer, recorded_stop() as inner:
        with signals(first):
            signal.raise_signal(signal.SIGTERM)
        with signals(second):
            pass
        assert inner.is_set()
    assert outer.is_set()
    assert first.is_set()
    assert not second.is_set()
    with recorded_stop() as later:
        assert not later.is_set()


def test_between_parts_a_signal_acts_as_ever() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with recorded_stop() as asked:
            signal.raise_signal(signal.SIGTERM)
            assert not asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
