"""From S3 to S3: killed at any request and started again, the same bytes, nothing done twice, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from svc_dist.run_folder.segments import ledger
from tests.support.command import short_home
from tests.support.dying import DIED, Death, start
from tests.support.fault_proxy import Fault, FaultProxy, Kind
from tests.support.s3_kills import Killer
from tests.support.s3_merge import Models, S3Merge, Starts, models_in
from tests.support.s3_servers import Bucket, Moto
from tests.system.conftest import own_bucket

pytestmark = pytest.mark.usefixtures("many_ranges")
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def moto_models(moto: Moto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with models_in(moto, tmp_path_factory.mktemp("models")) as models:
        yield models


@pytest.fixture
def starts(disk_s3: Bucket, disk_models: Models) -> Iterator[Starts]:
    with FaultProxy(disk_s3.server.endpoint, [Fault(Kind.LATENCY, seconds=0.005)]) as proxy:
        yield Starts(S3Merge(disk_s3, disk_models), proxy)


@pytest.fixture
def moto_starts(moto: Moto, moto_models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    for bucket in own_bucket(moto, monkeypatch):
        with FaultProxy(moto.endpoint) as proxy:
            yield Starts(S3Merge(bucket, moto_models), proxy)


# At every point between two steps


POINTS = {
    "plan recorded": Death("put", "after", "plan.json"),
    "upload announced": Death("put", "after", ".svc_dist/uploads/", 3),
    "upload begun, not recorded": Death("create_upload", "after", nth=3),
    "some uploads recorded": Death("put", "after", ".svc_dist/uploads/", 12),
    "all uploads recorded, no part": Death("upload_part", "before"),
    "part sent, no receipt": Death("upload_part", "after", nth=2),
    "receipt recorded": Death("put", "after", ".svc_dist/receipts/", 5),
    "all receipts of a shard, not completed": Death("complete_upload", "before"),
    "all receipts of the large shard, not completed": Death("complete_upload", "before", "00001-of"),
    "completed, next step not begun": Death("complete_upload", "after", nth=2),
    "all completed, nothing published": Death("put", "before", "config.json"),
    "companions written, no index": Death("put", "before", INDEX),
    "index written, run folder not cleared": Death("put", "after", INDEX),
    "run folder half cleared": Death("delete", "after", ".svc_dist/", 5),
    "plan gone, run folder not cleared": Death("delete", "after", ".svc_dist/plan.json"),
}


SOME = [
    "upload begun, not recorded",
    "all uploads recorded, no part",
    "part sent, no receipt",
    "all receipts of a shard, not completed",
    "completed, next step not begun",
    "all completed, nothing published",
    "companions written, no index",
    "index written, run folder not cleared",
]


@pytest.mark.parametrize(
    "point", [point if point in SOME else pytest.param(point, marks=pytest.mark.slow) for point in POINTS]
)
def test_death_between_two_steps(starts: Starts, point: str) -> None:
    die_and_resume(starts, POINTS[point])


@pytest.mark.parametrize(
    "point",
    ["upload begun, not recorded", pytest.param("completed, next step not begun", marks=pytest.mark.slow)],
)
def test_death_on_another_server(moto_starts: Starts, point: str) -> None:
    die_and_resume(moto_starts, POINTS[point])


def die_and_resume(starts: Starts, death: Death) -> None:
    """An upload of somebody else on one of the names stays all the while."""
    merge, proxy = starts.merge, starts.proxy
    theirs = f"{merge.output}/model-00003-of-00009.safetensors"
    upload = merge.bucket.client().create_multipart_upload(Bucket=merge.bucket.name, Key=theirs)["UploadId"]
    process = start(merge.recipe, merge.url, death, AWS_ENDPOINT_URL=proxy.endpoint)
    process.join(60)
    assert process.exitcode == DIED, "it was to die there"
    starts.check()
    done = len(starts.receipts)
    report = merge.run(proxy.endpoint)
    assert report.units_resumed >= done
    starts.check()
    merge.require_complete(others={theirs: [upload]})


# At any request


@pytest.fixture
def requests(starts: Starts) -> int:
    """How many requests a merge takes that nobody disturbs."""
    merge = S3Merge(starts.merge.bucket, starts.merge.models, "undisturbed")
    merge.run(starts.proxy.endpoint)
    merge.require_complete()
    count = len(starts.proxy.requests)
    starts.proxy.forget()
    return count


def test_four_kills_inline(starts: Starts, requests: int, tmp_path: Path) -> None:
    Killer(starts, 1, tmp_path).run(4, requests)


@pytest.mark.slow
def test_ten_kills_while_receipts_go_into_small_segments(
    starts: Starts, requests: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "SEGMENT", 2)
    Killer(starts, 5, tmp_path).run(10, requests)


@pytest.mark.slow
def test_three_kills_ray(starts: Starts, requests: int) -> None:
    with short_home() as home:
        Killer(starts, 2, home, "ray").run(3, requests * 4 // 5, first=requests // 2)


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "kills", "seed"), [("inline", 32, 3), ("ray", 10, 4)])
def test_many_more_kills(starts: Starts, requests: int, executor: str, kills: int, seed: int) -> None:
    with short_home() as home:
        Killer(starts, seed, home, executor).run(kills, requests)
