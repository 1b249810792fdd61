"""``auto`` on S3: the same rows and the same choice as on a disk, and a merge that verifies."""

from __future__ import annotations

from pathlib import Path

import pytest

import svc_dist
from tests.support.checkpoints import recipe_data, write_llamas
from tests.support.s3_files import put_models
from tests.support.s3_servers import Moto
from tests.system.conftest import own_bucket


def test_experts_on_s3(moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = write_llamas(tmp_path / "models")
    local = svc_dist.make_plan(recipe_data(models, "auto"), device="cpu").auto
    assert local is not None
    for bucket in own_bucket(moto, monkeypatch):
        recipe = recipe_data(put_models(bucket, models), "auto")
        svc_dist.merge(recipe, f"s3://{bucket.name}/merged", executor="inline", device="cpu")
        report = svc_dist.read_report(f"s3://{bucket.name}/merged")
        assert report.auto == local
        assert svc_dist.verify(f"s3://{bucket.name}/merged", deep=True).ok
