"""A nightly merge from S3 to S3: only when an object has changed, the pointer, old outputs, stopped at every write."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.checks.status import State, read_status
from svc_dist.checks.verify import verify
from svc_dist.errors import OutputError
from svc_dist.recipe import paths
from svc_dist.run.series.nightly import Nightly
from svc_dist.run_folder.series.pointer import resolved
from svc_dist.storage.access import DEFAULT_ACCESS
from svc_dist.storage.open import open_storage
from svc_dist.storage.s3.storage import S3Storage
from tests.support.checkpoints import recipe_data, write_llamas
from tests.support.s3_servers import Bucket, Moto
from tests.system.conftest import own_bucket

EVERY = Nightly(if_changed=True, latest=True, keep=1)


@pytest.fixture
def bucket(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Any:
    yield from own_bucket(moto, monkeypatch)


def uploaded(bucket: Bucket, folder: Path) -> dict[str, Any]:
    client = bucket.client()
    models = write_llamas(folder)
    for file in (file for model in models for file in model.iterdir()):
        client.put_object(Bucket=bucket.name, Key=f"{file.parent.name}/{file.name}", Body=file.read_bytes())
    return recipe_data([f"{bucket.url}/{model.name}" for model in models], parameters={"weight": 0.4})


def change(bucket: Bucket, recipe: dict[str, Any], day: int) -> None:
    """Another version of an expert's configuration, which is one of its files."""
    model = open_storage(recipe["models"][0]["model"])
    shard = next(name for name in model.names() if name.endswith(".safetensors"))
    data = bytearray(model.get(shard) or b"")
    data[-1] ^= day
    bucket.client().put_object(Bucket=bucket.name, Key=f"{model.location.rpartition('/')[2]}/{shard}", Body=bytes(data))


def on(monkeypatch: pytest.MonkeyPatch, day: int) -> None:
    monkeypatch.setattr(paths, "today", lambda: f"2026-11-{day:02d}")


def start(bucket: Bucket, recipe: dict[str, Any], nightly: Nightly = EVERY) -> str:
    output = f"{bucket.url}/nightly/{{date}}"
    return svc_dist.merge(recipe, output, executor="inline", device="cpu", slots=1, nightly=nightly).executor


@pytest.mark.slow
@pytest.mark.parametrize("write", ["put", "delete"])
@pytest.mark.parametrize("count", range(0, 40, 3))
def test_stopped_at_a_write_the_next_start_gets_there(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str, count: int
) -> None:
    recipe = uploaded(bucket, tmp_path)
    on(monkeypatch, 1)
    assert (start(bucket, recipe), start(bucket, recipe)) == ("inline", "none")
    on(monkeypatch, 2)
    change(bucket, recipe, 1)
    was_stopped = stopped_after(count, write, bucket, recipe)
    on(monkeypatch, 3)
    start(bucket, recipe)
    dates = open_storage(f"{bucket.url}/nightly").folders()
    complete = [date for date in dates if "model.safetensors.index.json" in names(bucket, date)]
    # Before its plan is recorded a merge has not begun, and the next one is of the day after.
    assert complete in (["2026-11-02"], ["2026-11-03"] if was_stopped else [])
    assert resolved(f"{bucket.url}/nightly/latest", DEFAULT_ACCESS) == f"{bucket.url}/nightly/{complete[0]}"
    assert verify(f"{bucket.url}/nightly/latest").ok
    assert [date for date in dates if date != complete[0] and names(bucket, date)] == []


def names(bucket: Bucket, date: str) -> list[str]:
    return open_storage(f"{bucket.url}/nightly/{date}").names()


def stopped_after(count: int, name: str, bucket: Bucket, recipe: dict[str, Any]) -> bool:
    """Start, and stop at the first write after so many; False where there were fewer."""
    real, calls = getattr(S3Storage, name), itertools.count()

    class KilledError(Exception):
        pass

    def stopping(self: S3Storage, *arguments: Any) -> None:
        if next(calls) >= count:
            raise KilledError
        real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Storage, name, stopping)
        try:
            start(bucket, recipe)
        except KilledError:
            return True
    return False


def test_commands_read_the_pointer_and_others_objects_stay(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = uploaded(bucket, tmp_path)
    on(monkeypatch, 1)
    start(bucket, recipe)
    latest = f"{bucket.url}/nightly/latest"
    assert read_status(latest).state is State.COMPLETE
    assert read_status(latest).output == f"{bucket.url}/nightly/2026-11-01"
    content = json.loads(open_storage(f"{bucket.url}/nightly").get("latest.json") or b"")
    assert content["output"] == f"{bucket.url}/nightly/2026-11-01"
    open_storage(f"{bucket.url}/nightly/2026-11-01").put("notes.txt", b"mine")
    on(monkeypatch, 2)
    change(bucket, recipe, 1)
    start(bucket, recipe)
    assert read_status(latest).output == f"{bucket.url}/nightly/2026-11-02"
    assert open_storage(f"{bucket.url}/nightly/2026-11-01").names(recursive=True) == ["notes.txt"]
    open_storage(f"{bucket.url}/nightly").put("latest.json", b'{"mine": 1}')
    with pytest.raises(OutputError, match="no pointer of svc-dist"):
        start(bucket, recipe)
