"""Without streams nothing is asked of CUDA: on the CPU, and in a build of torch that has none."""

from __future__ import annotations

import torch

from svc_dist.linalg.devices.streams import Pace, has_streams, own_stream


def test_a_build_without_cuda_and_the_cpu_have_no_streams() -> None:
    assert not has_streams("cpu")
    assert has_streams("cuda") == (torch.version.cuda is not None or torch.version.hip is not None)


def test_the_cpu_computes_in_no_stream_and_waits_for_no_copy() -> None:
    with own_stream("cpu"):
        assert float(torch.ones(3).sum()) == 3.0
    Pace(1).began(torch.device("cpu"), 1 << 30)
