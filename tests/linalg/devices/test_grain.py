"""How much is handled at once: on the CPU what it always was, elsewhere at least a device's grain."""

from __future__ import annotations

import torch

from svc_dist.linalg.devices.grain import GRAIN, grain, lines, on_the_cpu


def test_the_cpu_keeps_its_own_sizes() -> None:
    assert grain("cpu", 1000) == 1000
    assert lines(torch.device("cpu"), 512, 8192) == 512
    assert on_the_cpu("cpu")
    assert not on_the_cpu("cuda")


def test_a_device_gets_its_grain() -> None:
    assert grain("cuda:0", 1000) == GRAIN >= 1 << 24
    assert grain(torch.device("cuda", 0), 2 * GRAIN) == 2 * GRAIN
    assert lines("cuda", 512, 8192) == GRAIN // 8192
    assert lines("cuda", 512, GRAIN) == 512
    assert lines("cuda", 512, 0) == GRAIN
