"""What a cluster answers about its GPUs, on a stand-in for Ray."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from svc_dist.errors import RecipeError
from svc_dist.run.executors.ray_cluster import cluster_gpus, describe_gpu, warn_of_unused
from tests.run.executors.test_ray_devices import Cluster, RayTaskError

H100 = ("H100", "2.13.0+cu130")


class Asked(Cluster):
    """Answers by node; a node without an answer stays silent."""

    def __init__(self, answers: dict[str, Any], **gpus: int) -> None:
        super().__init__(**gpus)
        self.answers = answers

    def remote(self, **options: Any) -> Any:
        assert options["num_gpus"] > 0, "its GPUs would be hidden from the question"

        class Task:
            def options(self, scheduling_strategy: str) -> Task:
                self.node = scheduling_strategy
                return self

            def remote(self) -> str:
                return self.node

        return lambda function: Task()

    def wait(self, refs: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        return [ref for ref in refs if ref in self.answers], [ref for ref in refs if ref not in self.answers]

    def get(self, ref: Any) -> Any:
        if isinstance(self.answers[ref], Exception):
            raise self.answers[ref]
        return self.answers[ref]


def test_gpus_are_counted_by_kind_and_those_that_cannot_be_used_by_reason() -> None:
    failed = RayTaskError("Traceback\nRecipeError: torch can use no GPU here: torch 2.13.0 is built for the CPU only")
    found = cluster_gpus(Asked({"a": H100, "b": H100, "c": failed}, a=8, b=4, c=2, d=1, cores=0))
    assert found.kinds == {H100: 12}
    assert found.most() == H100
    silent, broken = sorted(found.unusable, key=lambda reason: found.unusable[reason])
    assert broken == "RecipeError: torch can use no GPU here: torch 2.13.0 is built for the CPU only"
    assert silent.startswith("no answer within")


def test_nothing_is_asked_where_there_is_no_gpu() -> None:
    found = cluster_gpus(Asked({}, cores=0))
    assert not found.kinds
    assert not found.unusable


def test_a_merge_on_cores_beside_gpus_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unused(Cluster(a=0))
    assert not caplog.messages
    warn_of_unused(Cluster(a=8, b=8, c=0))
    assert "the cluster has 16 GPUs on 2 nodes, which this merge does not use" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_node_whose_torch_can_use_no_gpu_says_why() -> None:
    with pytest.raises(RecipeError, match="torch can use no GPU here: torch"):
        describe_gpu()
