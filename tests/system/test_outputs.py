"""Several results of one pass, on S3 and under Ray: stopped anywhere and gone on with, the same bytes, nothing left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import svc_dist
from tests.run.test_outputs import THREE, recipe, write_models
from tests.support.command import shard_hashes
from tests.support.dying import DIED, Death, start
from tests.support.s3_files import listing, model_hashes, uploads
from tests.support.s3_servers import Bucket, Moto
from tests.system.conftest import own_bucket

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def expected(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    output = tmp_path_factory.mktemp("expected") / "out"
    svc_dist.merge(recipe(models, "task_arithmetic", THREE), output, executor="inline")
    return {entry["path"]: shard_hashes(output / entry["path"]) for entry in THREE}


@pytest.fixture
def s3(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    yield from own_bucket(moto, monkeypatch)


def found(bucket: Bucket) -> dict[str, dict[str, str]]:
    """The hashes of what lies in a bucket, by result."""
    return {entry["path"]: model_hashes(bucket, f"out/{entry['path']}") for entry in THREE}


@pytest.mark.parametrize(
    "death",
    [
        pytest.param(Death("put", "after", ".svc_dist/uploads/", 7), marks=pytest.mark.slow),
        Death("put", "after", ".svc_dist/receipts/", 3),
        Death("complete_upload", "after", nth=4),
        pytest.param(Death("put", "before", INDEX, 2), marks=pytest.mark.slow),
        Death("put", "after", "merge_outputs.json"),
    ],
    ids=["uploads", "receipts", "shards", "indexes", "end"],
)
def test_death_and_resume_on_s3(
    s3: Bucket, models: list[Path], expected: dict[str, dict[str, str]], death: Death
) -> None:
    wanted = recipe(models, "task_arithmetic", THREE)
    process = start(wanted, f"{s3.url}/out", death)
    process.join(120)
    assert process.exitcode == DIED
    svc_dist.merge(wanted, f"{s3.url}/out", executor="inline")
    assert found(s3) == expected
    assert uploads(s3) == set()
    assert listing(s3, "out/.svc_dist") == {}


@pytest.mark.slow
@pytest.mark.usefixtures("at_ray_home")
def test_under_ray(models: list[Path], expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    svc_dist.merge(recipe(models, "task_arithmetic", THREE), tmp_path / "out", executor="ray", slots=2)
    assert {entry["path"]: shard_hashes(tmp_path / "out" / entry["path"]) for entry in THREE} == expected
