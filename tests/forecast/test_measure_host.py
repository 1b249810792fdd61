"""Measuring this machine takes a minute and leaves nothing behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import fsspec
import pytest
import torch

from svc_dist.forecast.cluster import parse_cluster
from svc_dist.forecast.measure_host import measure_host
from svc_dist.forecast.rates import read_host


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_a_machine_and_a_storage_are_measured_and_left_as_they_were(tmp_path: Path) -> None:
    work, threads = tmp_path / "work", torch.get_num_threads()
    work.mkdir()
    host = measure_host(work, threads=1, storage="memory://probe/prefix")
    assert list(work.iterdir()) == []
    assert fsspec.filesystem("memory").find("probe") == []
    assert torch.get_num_threads() == threads
    for speed in (host.alone, host.crowded):
        rates = (speed.float64, speed.float32, speed.elementwise, speed.decode, speed.encode)
        assert min(rates) > 1e6
        sizes, seconds = zip(*speed.eigen, strict=True)
        assert sizes == (256, 512, 1024, 2048)
        assert seconds[-1] > seconds[0] > 0
    assert host.storage is not None
    for storage in (host.disk, host.storage):
        assert all(rate > 1e5 for rate in dataclasses.astuple(storage))
    assert 0 < host.start < 300
    (tmp_path / "host.json").write_text(host.to_json())
    assert read_host(tmp_path / "host.json") == host
    assert parse_cluster(f"host={tmp_path / 'host.json'}").lanes == host.cores
