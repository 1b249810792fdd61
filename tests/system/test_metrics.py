"""What a merge on Ray counts is exported by the node that its driver is on."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest

import svc_dist
from tests.support.checkpoints import write_llamas, write_recipe
from tests.support.ray_cluster import ray_cluster, receipts
from tests.support.s3_servers import free_ports


@pytest.mark.slow
def test_prometheus_finds_the_metrics_at_the_heads_port(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="only ray[default] exports metrics")
    models = write_llamas(tmp_path / "models", experts=2, layers=12, hidden=512, intermediate=1024, vocabulary=500)
    recipe = write_recipe(tmp_path / "recipe.yaml", models, calibrate="svc", max_shard_size="1MB")
    (port,) = free_ports(1)
    found: dict[str, float] = {}

    def scrape() -> bool:
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        except OSError:
            return False
        for name, labels, value in re.findall(r"^ray_(svc_dist_\w+)\{(.*?)\} (\S+)$", text, flags=re.MULTILINE):
            kind = re.search(r'(?:direction|stage)="(\w+)"', labels)
            assert f'run="{run}"' in labels
            found[f"{name} {kind[1]}" if kind else name] = float(value)
        return len(found) >= 7

    run = svc_dist.make_plan(recipe).fingerprint[:16]
    with (
        ray_cluster(1, f"--metrics-export-port={port}", RAY_metrics_report_interval_ms="500") as cluster,
        cluster.merge(recipe, tmp_path / "out", "--grace", "1") as merge,
    ):
        merge.until(lambda: len(receipts(tmp_path / "out")) > 1)
        merge.until(scrape)
    names = {name.removesuffix("_total").replace("_total ", " ") for name in found}
    assert {"svc_dist_units_done", "svc_dist_units_in_flight", "svc_dist_bytes in", "svc_dist_bytes out"} <= names
    assert {f"svc_dist_unit_seconds {stage}" for stage in ("read", "compute", "write")} <= names
