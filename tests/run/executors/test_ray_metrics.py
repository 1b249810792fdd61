"""The counters of a run, fed with its events: what is counted once, and under which tags."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

import svc_dist
from svc_dist.errors import StorageError
from svc_dist.run.executors.ray_metrics import Metrics
from svc_dist.run.schedule import Done, Failed, FinishShard, RangesLost, RunUnit
from svc_dist.run_folder.receipt import Receipt, WrittenRange
from tests.support.checkpoints import write_llamas, write_recipe


class Exporter:
    """Takes the place of ``ray.util.metrics``, which needs a cluster: keeps the value of each metric by its tags."""

    def __init__(self) -> None:
        self.values: dict[str, dict[tuple[str, ...], float]] = defaultdict(lambda: defaultdict(float))

    def Counter(self, name: str, description: str, tag_keys: tuple[str, ...]) -> Exporter.Metric:  # noqa: N802
        return self.Metric(self.values[name], tag_keys)

    Gauge = Counter

    class Metric:
        def __init__(self, values: dict[tuple[str, ...], float], keys: tuple[str, ...]) -> None:
            self.values, self.keys = values, keys

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self.keys)
            self.values[tuple(tags[key] for key in self.keys)] += value

        def set(self, value: float, tags: dict[str, str]) -> None:
            self.values[tuple(tags[key] for key in self.keys)] = value


def test_units_bytes_and_failures_are_counted(tmp_path: Path) -> None:
    plan = svc_dist.make_plan(write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path)))
    exporter = Exporter()
    metrics = Metrics(exporter, plan)
    run = (plan.fingerprint[:16],)
    one, other = RunUnit("000000"), RunUnit("000001")
    receipt = Receipt(
        "000000", plan.fingerprint, (WrittenRange("c", (), []),), 7, 3, {"read": 0.5, "write": 0.0}, "h", "cpu"
    )
    for unit in (one, other):
        metrics.started(unit)
    assert exporter.values["svc_dist_units_in_flight"][run] == 2
    metrics.ended(Failed(one, StorageError("no"), lost=True))
    metrics.started(one)
    metrics.ended(Done(one, receipt))
    assert exporter.values["svc_dist_units_in_flight"][run] == 1
    assert exporter.values["svc_dist_units_done"] == {run: 1}
    assert exporter.values["svc_dist_attempts_failed"] == {run: 1}
    assert exporter.values["svc_dist_attempts_repeated"] == {run: 1}
    assert exporter.values["svc_dist_bytes"] == {(*run, "in"): 7, (*run, "out"): 3}
    assert exporter.values["svc_dist_unit_seconds"] == {(*run, "read"): 0.5}


@pytest.mark.parametrize("end", ["done", "lost"])
def test_finishing_a_shard_is_no_unit(tmp_path: Path, end: str) -> None:
    plan = svc_dist.make_plan(write_recipe(tmp_path / "r.yaml", write_llamas(tmp_path)))
    exporter = Exporter()
    metrics = Metrics(exporter, plan)
    finish = FinishShard(0)
    metrics.started(finish)
    metrics.ended(Done(finish) if end == "done" else RangesLost(finish, ("000000",), StorageError("gone")))
    assert not any(exporter.values[name] for name in list(exporter.values))
