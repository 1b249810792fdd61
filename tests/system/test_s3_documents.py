"""Several documents merged to S3: stopped at any write and started again, the same bytes, and nothing left behind."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import svc_dist
from svc_dist.checks.clean import clean
from svc_dist.checks.status import read_status
from svc_dist.run_folder.output import Output
from svc_dist.storage.open import open_storage
from svc_dist.storage.s3.storage import S3Storage
from tests.support.checkpoints import write_llamas
from tests.support.s3_servers import Bucket, Moto
from tests.system.conftest import own_bucket


class StoppedError(Exception):
    """What a merge ends with."""


def documents(models: list[Path]) -> list[dict[str, Any]]:
    base, one, two = map(str, models)
    experts = [{"model": model, "parameters": {"weight": 0.5}} for model in (one, two)]
    last = [{"model": model, "parameters": {"weight": 0.5}} for model in ("first", two)]
    return [
        {"name": "first", "merge_method": "task_arithmetic", "base_model": base, "models": experts},
        {"merge_method": "linear", "models": last, "dtype": "float32"},
    ]


def merge(recipe: Any, output: str | Path) -> None:
    svc_dist.merge(recipe, output, executor="inline", device="cpu", slots=1)


def stop_after(puts: int, recipe: Any, output: str) -> bool:
    """Merge until so many files are written; whether the merge was complete before."""
    real, count = S3Storage.put, itertools.count()

    def stopping(self: S3Storage, name: str, data: bytes) -> None:
        if next(count) >= puts:
            raise StoppedError
        real(self, name, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Storage, "put", stopping)
        try:
            merge(recipe, output)
        except StoppedError:
            return False
    return True


def test_documents_on_s3(moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = documents(write_llamas(tmp_path / "models"))
    merge(recipe, tmp_path / "expected")
    for bucket in own_bucket(moto, monkeypatch):
        output = f"s3://{bucket.name}/merged"
        assert not stop_after(10, recipe, output)
        assert len(read_status(output).documents) == 2
        for _ in range(20):
            if stop_after(5, recipe, output):
                break
        storage = open_storage(output)
        names = storage.names(recursive=True)
        assert sorted(names) == sorted(path.name for path in (tmp_path / "expected").iterdir())
        assert storage.read("model.safetensors") == (tmp_path / "expected" / "model.safetensors").read_bytes()
        abandoned = f"s3://{bucket.name}/abandoned"
        assert not stop_after(4, recipe, abandoned)
        clean(Output(abandoned))
        assert open_storage(abandoned).names(recursive=True) == []
        assert _uploads(bucket) == []


def _uploads(bucket: Bucket) -> list[str]:
    answer = bucket.client().list_multipart_uploads(Bucket=bucket.name)
    return [upload["Key"] for upload in answer.get("Uploads", [])]
